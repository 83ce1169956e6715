"""Official network files: their networks compute in mvgan what they compute there, and nothing in a file is run."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jobs import import_weights as verb
from mvgan.config import InputError
from mvgan.importers.official import convert
from mvgan.importers.pickled import read_pickle
from mvgan.nets.discriminator import Discriminator
from mvgan.nets.generator import Generator
from tests.unit.importers.hostile_files import REASONS, doubled, hostile
from tests.unit.importers.official_files import Networks, Saved, saved, their_modules
from tests.unit.jobs.test_cli import refused


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks()


@pytest.fixture(scope="module")
def file(networks: Networks) -> bytes:
    return networks.file()


def test_both_frames_are_the_official_image(networks: Networks, file: bytes) -> None:
    """Reference: the papers' equations in float64."""
    official = convert(file, "x.pkl")
    generator = Generator(official.network, official.resolution).eval()
    generator.load_state_dict(official.generator)
    z = torch.randn(3, networks.z_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = generator.synthesis(generator.mapping(z), None, torch.float32)
    expected = networks.image(z.double())
    for side in (0, 1):
        torch.testing.assert_close(found[:, side].double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_pair_of_equal_frames_scores_as_the_image_did(networks: Networks, file: bytes) -> None:
    """Reference: the papers' equations in float64."""
    official = convert(file, "x.pkl")
    assert official.discriminator is not None
    discriminator = Discriminator(official.network, official.resolution)
    discriminator.load_state_dict(official.discriminator)
    image = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found = discriminator.float()(torch.stack([image, image], 1), 4)
    expected = networks.score(image.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_networks_of_pairs_are_taken_as_they_are() -> None:
    """The paper's own files have 6 colours."""
    networks = Networks(colours=6)
    official = convert(networks.file(), "x.pkl")
    assert official.discriminator is not None
    assert torch.equal(official.generator["synthesis.blocks.2.to_frames.weight"], networks.g["synthesis.b16.torgb.weight"])
    assert torch.equal(official.discriminator["from_frames.weight"], networks.d["b16.fromrgb.weight"])


def test_the_verb(file: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "network.pkl").write_bytes(file)
    flags = str(tmp_path / "network.pkl"), "--out", str(tmp_path / "weights")
    verb.run(verb.Flags(flags[0], flags[2]))
    said = capsys.readouterr().out
    assert "--network.channel-base 128 --network.channel-max 12" in said and "--network.mapping-layers 3" in said
    assert {path.name for path in (tmp_path / "weights").iterdir()} == {"generator.safetensors", "discriminator.safetensors", "config.json"}
    official = convert(file, "x.pkl")
    for name, tensors in (("generator", official.generator), ("discriminator", official.discriminator)):
        assert tensors is not None
        found = load_file(tmp_path / f"weights/{name}.safetensors")
        assert found.keys() == tensors.keys() and all(torch.equal(found[key], tensors[key]) for key in tensors)
    assert json.loads((tmp_path / "weights/config.json").read_text())["resolution"] == 16
    assert "is there already and is not overwritten" in refused(verb.run, verb.Flags, *flags)
    (tmp_path / "weights/config.json").unlink()  # as if it had been killed
    (tmp_path / "weights/discriminator.safetensors").unlink()
    verb.run(verb.Flags(flags[0], flags[2]))
    assert capsys.readouterr().out == said and (tmp_path / "weights/config.json").exists()
    for file_of_others in ("generator.safetensors", "notes.txt"):
        mine = tmp_path / f"mine-{file_of_others}" / file_of_others
        mine.parent.mkdir()
        mine.write_bytes(b"of another")
        assert "is there already and is not overwritten" in refused(verb.run, verb.Flags, flags[0], "--out", str(mine.parent))
        assert [path.read_bytes() for path in mine.parent.iterdir()] == [b"of another"]
    assert "there is no file" in refused(verb.run, verb.Flags, f"{flags[0]}x", "--out", str(tmp_path / "other"))


def test_a_file_that_wants_more_than_tensors_is_refused(tmp_path: Path) -> None:
    for name, data in hostile(tmp_path).items():
        with pytest.raises(InputError, match=r"x\.pkl") as error:
            read_pickle(data, "x.pkl")
        assert str(error.value).isprintable() and len(str(error.value)) < 400, name
        if name in REASONS:
            assert REASONS[name] in str(error.value), name
    assert not (tmp_path / "ran").exists(), "a file was run"


def test_other_networks_are_told(networks: Networks) -> None:
    def told(change: dict[str, Any]) -> str:
        other = Networks()
        other.g, other.d = {**other.g, **change.get("g", {})}, {**other.d, **change.get("d", {})}
        with pytest.raises(InputError) as error:
            convert(other.file(**change.get("more", {})), "x.pkl")
        assert str(error.value).isprintable() and len(str(error.value)) < 400
        return str(error.value)

    assert "is conditional (c_dim 10)" in told({"more": {"c_dim": 10}})
    assert "'synthesis.b16.skip.weight' is unknown" in told({"g": {"synthesis.b16.skip.weight": torch.zeros(8, 8, 1, 1)}})
    wrong = told({"d": {"b16.conv0.weight": torch.zeros(8, 7, 3, 3)}})
    assert "'blocks.0.conv0.weight' of [8, 7, 3, 3], expected [8, 8, 3, 3]" in wrong
    assert "a Tensor for c_dim, expected a whole number" in told({"more": {"c_dim": torch.zeros(2)}})
    assert "a str for c_dim, expected a whole number" in told({"more": {"c_dim": "10\n\x1b[31m"}})
    assert "a tuple for c_dim, expected a whole number" in told({"more": {"c_dim": doubled(60)}})
    assert "the opcode LONG4" in told({"more": {"c_dim": 10**5000}})
    assert r"first 'synthesis.\n\x1b[2Jb' is unknown" in told({"g": {"synthesis.\n\x1b[2Jb": torch.zeros(1)}})
    for nothing in ({"mapping.fc0.weight": torch.zeros(0, 8)}, {"mapping.fc0.weight": torch.zeros(10, 0)}):
        assert "it has a layer of no channels" in told({"g": nothing})
    flat = {name: value[:0] for name, value in Networks().g.items() if name.endswith("conv1.weight")}
    assert "it has a layer of no channels" in told({"g": flat})
    assert "is not finite" in told({"g": {"mapping.w_avg": torch.full((10,), torch.nan)}})
    assert "is no StyleGAN2 network" in told({"g": {"mapping.fc0.weight": torch.zeros(80)}})
    assert "is no StyleGAN2 network" in told({"g": {"synthesis.b8.conv1.weight": torch.zeros([])}})
    assert "holds torch.complex64" in told({"g": {"mapping.w_avg": torch.zeros(10, dtype=torch.complex64)}})
    assert "tensors differ" in told({"g": {"synthesis.b16.conv1.weight": torch.zeros(40000, 0, 3, 3)}})
    with their_modules():
        no_generator, styleless = pickle.dumps({"D": None}), pickle.dumps({"G_ema": saved("Generator", {"input.freqs": torch.zeros(3)})})
    for data, message in ((no_generator, "has no generator G_ema"), (styleless, "is no StyleGAN2 network")):
        with pytest.raises(InputError, match=message):
            convert(data, "x.pkl")


def network_file(generator: Saved) -> bytes:
    with their_modules():
        return pickle.dumps({"G_ema": generator})


def test_each_module_and_tensor_is_visited_once() -> None:
    """Modules of modules, each named twice, would be 2^depth of them; a tensor of many names as many copies."""
    module = Saved("x\n", {"w": torch.zeros(1)}, {}, {})
    for _ in range(9):
        module = Saved("x\n", {}, {}, {"a": module, "b": module})
    itself, deep, tensor = Saved("x", {}, {}, {}), Saved("x", {}, {}, {}), torch.zeros(3)
    itself.state["_modules"]["me"] = itself
    for _ in range(10):
        deep = Saved("x", {}, {}, {"a": deep})
    many = Saved("x", {}, {}, {})
    many.state["_buffers"].update(a=tensor, b=tensor)
    for saved_module, reason in (
        (module, r"network 'x\n' of the file has 'b' in its _modules that is elsewhere too"),
        (itself, "has 'me' in its _modules that is elsewhere too"),
        (deep, "10 levels deep"),
        (many, "has 'b' in its _buffers that is elsewhere too"),
        (Saved("x", {"n" * 101: torch.zeros(1)}, {}, {}), "has Tensor 'nnn"),
        (Saved("a\nb", {}, {}, {"x": 3}), r"network 'a\nb' of the file has int 'x' in its _modules"),
    ):
        with pytest.raises(InputError) as error:
            convert(network_file(saved_module), "x.pkl")
        assert reason in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 300


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_files_of_every_python_that_wrote_them(networks: Networks, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.7 wrote protocol 3, later ones 4; torch's own parts are in protocol 2."""
    dumps = pickle.dumps
    monkeypatch.setattr(pickle, "dumps", lambda value: dumps(value, protocol))
    official = convert(networks.file(), "x.pkl")
    assert torch.equal(official.generator["mapping.w_avg"], networks.g["mapping.w_avg"])


@pytest.mark.parametrize("name", "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128".split())
def test_tensors_are_what_torch_wrote(name: str) -> None:
    """Reference: the tensors that were written, also views and one without numbers."""
    dtype = getattr(torch, name)
    whole = torch.arange(24).reshape(4, 6).to(dtype)
    for value in (whole, whole.T, whole[1:3, ::2], whole[:0], whole[2, 3]):
        found = read_pickle(pickle.dumps({"x": value}), "x.pkl")["x"]
        assert found.dtype == dtype and torch.equal(found, value)
