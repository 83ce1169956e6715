"""A GPU whose memory holds no step: what would fit is found by trying, and told. The GPU is one that refuses batches above a size."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mvgan.config import InputError, Run
from mvgan.data.shards import ShardSet
from mvgan.storage.run import RunFolder, open_run, read_run
from mvgan.train.pairs import PairStage
from mvgan.train.session import Worker, local_batches, train_worker
from mvgan.train.video import VideoStage
from tests.unit.conftest import make_shards, tiny_config


WORDS = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79.1 GiB. See documentation for Memory Management"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return make_shards(tmp_path_factory.mktemp("data"), tiny_config())


def refuse_above(monkeypatch: pytest.MonkeyPatch, kind: type, phase: str, limit: int) -> None:
    """A phase of the stage finds no memory for more than `limit` samples at once."""
    original: Callable[..., Any] = getattr(kind, phase)

    def refusing(stage: Any, batch: torch.Tensor, *others: Any) -> Any:
        at_once = len(batch) // (stage.run.pairs.accumulate if kind is PairStage else 1)
        if at_once > limit:
            raise torch.OutOfMemoryError(WORDS)
        return original(stage, batch, *others)

    monkeypatch.setattr(kind, phase, refusing)


def told(run: Run, shards: ShardSet, folder: Path) -> str:
    opened = open_run(str(folder / "run"), run, shards.uri)
    epoch = opened.commits("pairs").claim({"test": "memory"})
    with pytest.raises(InputError) as refusal:
        train_worker(opened, "pairs", epoch, local_batches(shards, run, "pairs"), Worker(say=lambda line: None))
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def of_batch(batch: int, group: int, accumulate: int = 1) -> Run:
    run = tiny_config()
    return dataclasses.replace(run, pairs=dataclasses.replace(run.pairs, batch=batch, group=group, accumulate=accumulate))


def test_what_fits_is_told_and_does_fit(shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_above(monkeypatch, PairStage, "step", 9)
    line = told(of_batch(32, 2), shards, tmp_path)
    assert f"out of GPU memory with 32 pairs at once on a worker ({WORDS.split('. See')[0]}); 8 fit: " in line
    assert "give --pairs.accumulate 4, or --pairs.batch 8, under another --name" in line
    run = of_batch(32, 2, accumulate=4)
    opened = open_run(str(tmp_path / "again"), run, shards.uri)
    progress = train_worker(opened, "pairs", opened.commits("pairs").claim({}), local_batches(shards, run, "pairs"), Worker(say=print))
    assert progress.images == 64


def test_parts_that_do_not_fit_either(shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_above(monkeypatch, PairStage, "step", 3)
    assert "16 pairs at once on a worker" in (line := told(of_batch(32, 2, accumulate=2), shards, tmp_path))
    assert "; 2 fit: give --pairs.accumulate 16, or --pairs.batch 2," in line


def test_a_shard_that_does_not_fit(shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_above(monkeypatch, PairStage, "step", 3)
    assert "not even a shard of 4 fits; give --pairs.group 2, a smaller --network.channel-base" in told(of_batch(8, 4), shards, tmp_path)


def test_stage_3(tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = read_run(shutil.copytree(tiny_run.uri, tmp_path / "run"))
    shutil.rmtree(Path(folder.uri, "video"))
    run = dataclasses.replace(folder.run, video=dataclasses.replace(folder.run.video, group=2))
    folder = dataclasses.replace(folder, run=run)
    refuse_above(monkeypatch, VideoStage, "step", 2)
    batches = local_batches(ShardSet.open(folder.data), run, "video")
    with pytest.raises(InputError, match=r"with 4 clips at once on a worker .*; 2 fit: give --video.batch 2, under another"):
        train_worker(folder, "video", folder.commits("video").claim({}), batches, Worker(say=lambda line: None))
