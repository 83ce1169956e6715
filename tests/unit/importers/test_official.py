"""Official network files: their networks compute in mvgan what they compute there, and nothing in a file is run."""

import io
import json
import os
import pickle
import sys
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
    assert "there is no file" in refused(verb.run, verb.Flags, f"{flags[0]}x", "--out", str(tmp_path / "other"))


class Run:
    """What a hostile file holds: a call of whatever it likes."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def tensor(size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A file with one tensor, of a storage of two numbers."""
    built = Run(torch._utils._rebuild_tensor_v2, torch.zeros(2)._typed_storage(), 0, size, stride, False, {})
    return pickle.dumps({"G_ema": built})


def their_state() -> bytes:
    with their_modules():
        easy = sys.modules["dnnlib.util"].EasyDict(x=1)
        easy.__dict__["other"] = 3
        return pickle.dumps({"G_ema": easy})


def hostile(tmp_path: Path) -> dict[str, bytes]:
    ran = tmp_path / "ran"
    with their_modules():
        inner = pickle.dumps({"G_ema": saved("Generator", {}, also=Run(os.mkdir, str(ran)))})
        deep = pickle.dumps({"G_ema": Saved("Generator", {}, {}, {"x": Run(eval, "open(1)")})})
    buffer = io.BytesIO()
    torch.save(Run(os.mkdir, str(ran)), buffer)
    return {
        "a call": pickle.dumps(Run(os.mkdir, str(ran))),
        "in a state": inner,
        "in a module": deep,
        "a call by name": b"cposix\nsystem\n(S'true'\ntR.",
        "getattr": pickle.dumps(Run(getattr, {}, "keys")),
        "a storage of another kind": pickle.dumps(Run(torch.storage._load_from_bytes, buffer.getvalue())),
        "a persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "nothing": b"",
        "text": b"no pickle at all",
        "a list": pickle.dumps([1, 2]),
        "a tensor beyond its storage": tensor((1000,), (1,)),
        "a tensor that is small in the file alone": tensor((10**8,), (0,)),
        "a tensor of negative steps": tensor((2,), (-1,)),
        "the state of a tensor": pickle.dumps(torch.zeros(2), 3)[:-1] + b"}X\x01\x00\x00\x00aK\x01sb.",
        "the state of a container": their_state(),
        "a place in the memo that is far away": b"\x80\x04}r\xff\xff\xff\x7fK\x01.",
    }


REASONS = {
    "a call": "it wants posix.mkdir",
    "a tensor beyond its storage": "more numbers than its storage holds",
    "a tensor that is small in the file alone": "more numbers than its storage holds",
    "a tensor of negative steps": "more numbers than its storage holds",
    "the state of a tensor": "it sets the state of a Tensor",
    "the state of a container": "it sets the state of a _Containers",
}


def test_a_file_that_wants_more_than_tensors_is_refused(tmp_path: Path) -> None:
    for name, data in hostile(tmp_path).items():
        with pytest.raises(InputError, match=r"x\.pkl") as error:
            read_pickle(data, "x.pkl")
        assert "\n" not in str(error.value), name
        if name in REASONS:
            assert REASONS[name] in str(error.value), name
    assert not (tmp_path / "ran").exists(), "a file was run"


def test_other_networks_are_told(networks: Networks) -> None:
    def told(change: dict[str, Any]) -> str:
        other = Networks()
        other.g, other.d = {**other.g, **change.get("g", {})}, {**other.d, **change.get("d", {})}
        with pytest.raises(InputError) as error:
            convert(other.file(**change.get("more", {})), "x.pkl")
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "is conditional (c_dim 10)" in told({"more": {"c_dim": 10}})
    assert "synthesis.b16.skip.weight is unknown" in told({"g": {"synthesis.b16.skip.weight": torch.zeros(8, 8, 1, 1)}})
    wrong = told({"d": {"b16.conv0.weight": torch.zeros(8, 7, 3, 3)}})
    assert "blocks.0.conv0.weight of [8, 7, 3, 3], expected [8, 8, 3, 3]" in wrong
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
