"""Weights to begin with: what fits is taken from where it is named, the rest begins anew and is said."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import save_file

from jobs import pairs as verb
from jobs._cli import parse
from mvgan.config import InputError, Network, Run
from mvgan.data.shards import ShardSet
from mvgan.importers.official import convert, files
from mvgan.storage.run import RunFolder, open_run
from mvgan.train.initial import begin, check_initial, read_initial
from mvgan.train.pairs import PairStage
from mvgan.train.ranks import Ranks
from mvgan.train.session import Worker, local_batches, train_worker
from mvgan.train.state import from_bytes
from tests.unit.conftest import tiny_config
from tests.unit.importers.official_files import Networks
from tests.unit.jobs.test_cli import refused
from tests.unit.train.leave import leave


CPU = torch.device("cpu")


def stage_of(run: Run) -> PairStage:
    return PairStage(run, Ranks(run.pairs.batch // run.pairs.group, run.pairs.group), CPU)


def told(stage: PairStage, source: str) -> list[str]:
    lines: list[str] = []
    begin(stage, source, lines.append)
    return lines


def test_a_run_gives_its_newest_commit(tiny_run: RunFolder) -> None:
    stage = stage_of(dataclasses.replace(tiny_run.run, seed=7))
    lines = told(stage, tiny_run.uri)
    state = from_bytes(tiny_run.commits("pairs").read(tiny_run.require("pairs"), "state.pt"))
    for network, name in ((stage.generator, "generator"), (stage.ema, "ema"), (stage.discriminator, "discriminator")):
        assert all(torch.equal(value, state[name][key]) for key, value in network.state_dict().items())
    assert not torch.equal(state["generator"]["mapping.layers.0.weight"], state["ema"]["mapping.layers.0.weight"])
    assert len(lines) == 3 and not any("anew" in line for line in lines)


def test_an_export_gives_the_generator_alone(tiny_run: RunFolder) -> None:
    stage = stage_of(dataclasses.replace(tiny_run.run, seed=7))
    before = stage.discriminator.state_dict()["out.weight"].clone()
    lines = told(stage, f"{tiny_run.uri}/export")
    assert torch.equal(stage.generator.synthesis.blocks[0].const, stage.ema.synthesis.blocks[0].const)  # type: ignore[arg-type]
    assert torch.equal(stage.discriminator.out.weight, before)
    assert "discriminator begins with 0 of" in lines[2] and "begin anew: " in lines[2]


@pytest.mark.parametrize("resolution", [32, 8])
def test_another_resolution_takes_the_blocks_that_it_shares(tiny_run: RunFolder, resolution: int) -> None:
    """Reference: the blocks at each size, found by their channels' place; of 16 px, 8 and 16 are shared, or 8 alone."""
    network = dataclasses.replace(tiny_run.run.network, channel_base=16 * 32, channel_max=16)
    stage = stage_of(dataclasses.replace(tiny_run.run, seed=7, resolution=resolution, network=network))
    told(stage, tiny_run.uri)
    state = from_bytes(tiny_run.commits("pairs").read(tiny_run.require("pairs"), "state.pt"))
    ours = stage.discriminator.state_dict()
    sizes = {16: 0, 8: 1}  # the number of the block at each size in a discriminator of 16 px
    for size, block in sizes.items():
        here = {32: {16: 1, 8: 2}, 8: {8: 0}}[resolution].get(size)
        if here is not None:
            assert torch.equal(ours[f"blocks.{here}.conv0.weight"], state["discriminator"][f"blocks.{block}.conv0.weight"])
    theirs, generator = state["generator"], stage.generator.state_dict()
    shared = [name for name, value in generator.items() if name in theirs and torch.equal(value, theirs[name])]
    assert any("blocks.1." in name for name in shared)
    assert any("blocks.2." in name for name in shared) == (resolution == 32)


def test_official_weights_are_a_start(tmp_path: Path) -> None:
    official = convert(Networks().file(), "x.pkl")
    for name, tensors in files(official):
        save_file(tensors, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    run = dataclasses.replace(tiny_config(), network=dataclasses.replace(official.network, precision="fp32"), num_codes=2)
    lines = told(stage_of(run), str(tmp_path))
    assert len(lines) == 3 and not any("anew" in line for line in lines)


def test_training_goes_on_from_them_and_resumes_without(tiny_run: RunFolder, tmp_path: Path) -> None:
    """The first step starts from those weights; a run that has a commit does not look at them any more."""
    source = Path(shutil.copytree(f"{tiny_run.uri}/export", tmp_path / "source"))
    pairs = dataclasses.replace(tiny_run.run.pairs, init_from=str(source), lr=1e-9)
    run = dataclasses.replace(tiny_run.run, seed=7, pairs=pairs)
    folder, shards = open_run(str(tmp_path / "run"), run, tiny_run.data), ShardSet.open(tiny_run.data)
    check_initial(run, folder.uri)
    said: list[str] = []

    def train() -> None:
        train_worker(folder, "pairs", folder.commits("pairs").claim({}), local_batches(shards, run, "pairs"), Worker(say=said.append))

    train()
    state = from_bytes(folder.commits("pairs").read(folder.require("pairs"), "state.pt"))
    expected = read_initial(str(source))["generator"]["synthesis.blocks.0.conv1.weight"]
    torch.testing.assert_close(state["generator"]["synthesis.blocks.0.conv1.weight"], expected, rtol=0, atol=1e-6)
    assert any("generator begins with" in line for line in said)
    shutil.rmtree(source)
    check_initial(run, folder.uri)
    said.clear()
    train()
    assert not any("begins with" in line for line in said)


def _worker(rank: int, folder: str, source: str, run: Run) -> None:
    """One of two workers; the second finds no weights at all."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    run = dataclasses.replace(run, seed=rank)  # other weights to begin with, which training has not
    stage = PairStage(run, Ranks(run.pairs.batch // run.pairs.group, run.pairs.group, rank, 2), CPU)
    begin(stage, source if rank == 0 else "nowhere", lambda line: None)
    torch.save(
        {name: part.state_dict() for name, part in (("g", stage.generator), ("d", stage.discriminator), ("e", stage.ema))},
        f"{folder}/{rank}",
    )
    leave()


def test_all_workers_begin_with_what_the_first_has_read(tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that it is taken from may commit between two looks, and gradients alone would never bring workers together."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(_worker, (str(tmp_path), f"{tiny_run.uri}/export", tiny_run.run), nprocs=2)
    first, second = (torch.load(tmp_path / str(rank), weights_only=True) for rank in (0, 1))
    for name, state in first.items():
        assert state.keys() == second[name].keys()
        assert all(torch.equal(value, second[name][key]) for key, value in state.items()), name


def test_mistakes(tiny_run: RunFolder, tmp_path: Path) -> None:
    flags = "--data", tiny_run.data, "--resolution", "16", "--storage", str(tmp_path), "--name", "new", "--pairs.init-from"
    assert "has no weights; give the folder of a run" in refused(verb.run, verb.Flags, *flags, str(tmp_path / "nowhere"))
    assert "--pairs.init-from is empty" in refused(verb.run, verb.Flags, *flags, "")
    run = dataclasses.replace(tiny_run.run, pairs=dataclasses.replace(tiny_run.run.pairs, init_from=str(tmp_path / "new")))
    with pytest.raises(InputError, match="is the run itself"):
        check_initial(run, str(tmp_path / "new"))
    (tmp_path / "generator.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="is no safetensors file"):
        read_initial(str(tmp_path))
    other = Network(z_dim=9, w_dim=11, mapping_layers=1, channel_base=96, channel_max=6, noise=False)
    with pytest.raises(InputError, match="nothing of --pairs"):
        told(stage_of(dataclasses.replace(tiny_run.run, network=other)), tiny_run.uri)
    pairs = tiny_run.run.pairs
    with pytest.raises(InputError, match="nothing of --pairs"):
        check_initial(
            dataclasses.replace(tiny_run.run, network=other, pairs=dataclasses.replace(pairs, init_from=tiny_run.uri)), str(tmp_path / "x")
        )
    assert "is no safetensors file" in refused(verb.run, verb.Flags, *flags, str(tmp_path))
    assert "has no weights; give its folder, and not the file" in refused(
        verb.run, verb.Flags, *flags, str(tmp_path / "generator.safetensors")
    )
    (tmp_path / "network.pkl").touch()
    said = refused(verb.run, verb.Flags, *flags, str(tmp_path / "network.pkl"))
    assert f"has no weights; run `python -m jobs.import_weights {tmp_path}/network.pkl --out weights`" in said
    assert not (tmp_path / "new").exists(), "the name of a run that cannot begin stays free"


def dry_run(tiny_run: RunFolder, source: Path, tmp_path: Path) -> tuple[str, ...]:
    """Flags of a run of the tiny networks that begins with `source`."""
    network = tiny_run.run.network
    sizes = {"z-dim": network.z_dim, "w-dim": network.w_dim, "mapping-layers": network.mapping_layers, "channel-base": network.channel_base}
    flags = [flag for name, size in sizes.items() for flag in (f"--network.{name}", str(size))]
    return (
        "--preset", "smoke", "--network.noise", "--network.channel-max", str(network.channel_max), "--num-codes", "2", *flags, "--data",
        tiny_run.data, "--storage", str(tmp_path / "runs"), "--name", "new", "--dry-run", "--pairs.init-from", str(source),
    )  # fmt: skip


def folder_of(path: Path, **files: dict[str, torch.Tensor]) -> Path:
    """A folder as an import leaves it."""
    path.mkdir()
    for name, tensors in files.items():
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path / f"{name}.safetensors")
    (path / "config.json").write_text("{}")
    return path


def test_weights_of_another_kind_are_refused(tiny_run: RunFolder, tmp_path: Path) -> None:
    """In the dry run and in training, in one line: what is no number of a network, and a discriminator of another network."""
    stage = stage_of(tiny_run.run)
    generator, discriminator, layer = stage.generator.state_dict(), stage.discriminator.state_dict(), "mapping.layers.0.weight"
    broken = {**discriminator, "out.bias": torch.full((1,), torch.nan)}
    double = {key: value.double() for key, value in generator.items()}
    cases: dict[str, tuple[dict[str, dict[str, torch.Tensor]], str]] = {
        "nan": ({"generator": {key: value * torch.nan for key, value in generator.items()}}, "numbers that are not finite"),
        "inf": ({"generator": {**generator, layer: generator[layer] / 0}}, f"'{layer}' with numbers that are not finite"),
        "too-large": ({"generator": {**double, layer: double[layer] * 1e300}}, f"'{layer}' with numbers that are not finite"),
        "int": ({"generator": {key: value.int() for key, value in generator.items()}}, "in torch.int32, expected floating point"),
        "complex": ({"generator": {key: value.to(torch.complex64) for key, value in generator.items()}}, "in torch.complex64, expected"),
        "another": ({"generator": generator, "discriminator": {"x": torch.zeros(3)}}, "nothing of discriminator.safetensors"),
        "none": ({"generator": generator, "discriminator": {}}, "nothing of discriminator.safetensors"),
        "broken": ({"generator": generator, "discriminator": broken}, "the discriminator of"),
    }  # fmt: skip
    for name, (tensors, reason) in cases.items():
        source = folder_of(tmp_path / name, **tensors)
        assert reason in refused(verb.run, verb.Flags, *dry_run(tiny_run, source, tmp_path)), name
        with pytest.raises(InputError, match=reason.split(" of")[0]):
            told(stage, str(source))


def test_a_dry_run_tells_what_is_taken_as_training_does(tiny_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reference: what training says of the same weights; half precision, one tensor alone and no discriminator are a start."""
    stage = stage_of(tiny_run.run)
    one = {"mapping.layers.1.weight": stage.generator.state_dict()["mapping.layers.1.weight"]}
    half = {key: value.half() for key, value in stage.generator.state_dict().items()}
    for name, generator, count in (("one", one, 1), ("half", half, len(half))):
        source = folder_of(tmp_path / name, generator=generator)
        verb.run(parse(verb.Flags, list(dry_run(tiny_run, source, tmp_path)), ""))
        said = capsys.readouterr().out
        assert f"pairs: generator begins with {count} of {len(half)} tensors of --pairs.init-from" in said
        assert f"discriminator begins with 0 of {len(stage.discriminator.state_dict())} tensors" in said
        assert said.splitlines()[-3:] == told(stage, str(source))


def test_an_import_that_was_cut_short_is_no_start(tiny_run: RunFolder, tmp_path: Path) -> None:
    """Its config.json is written last."""
    source = folder_of(tmp_path / "half", generator=stage_of(tiny_run.run).generator.state_dict())
    (source / "config.json").unlink()
    line = refused(verb.run, verb.Flags, *dry_run(tiny_run, source, tmp_path))
    assert "has no config.json, so what wrote it has not finished" in line and "jobs.import_weights` again" in line
    with pytest.raises(InputError, match=r"has no config\.json"):
        read_initial(str(source))
