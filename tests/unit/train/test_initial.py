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
    assert "has no weights; give the folder" in refused(verb.run, verb.Flags, *flags, str(tmp_path / "generator.safetensors"))
    assert not (tmp_path / "new").exists(), "the name of a run that cannot begin stays free"
