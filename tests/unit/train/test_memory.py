"""A GPU whose memory holds no step: what would fit is found by trying, and told. The GPU is one that refuses batches above a size."""

import dataclasses
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mvgan.config import InputError, Run
from mvgan.data.shards import ShardSet
from mvgan.storage.run import RunFolder, open_run, read_run
from mvgan.train.memory import too_large
from mvgan.train.pairs import PairStage
from mvgan.train.ranks import Ranks
from mvgan.train.session import Worker, check_workers, local_batches, train_worker
from mvgan.train.video import VideoStage
from mvgan.validation import validate
from tests.unit.conftest import make_shards, tiny_config


CPU = torch.device("cpu")
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
    assert "give --pairs.accumulate 4 or --pairs.batch 8, under another --name" in line
    run = of_batch(32, 2, accumulate=4)
    opened = open_run(str(tmp_path / "again"), run, shards.uri)
    progress = train_worker(opened, "pairs", opened.commits("pairs").claim({}), local_batches(shards, run, "pairs"), Worker(say=print))
    assert progress.images == 64


def test_parts_that_do_not_fit_either(shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_above(monkeypatch, PairStage, "step", 3)
    assert "16 pairs at once on a worker" in (line := told(of_batch(32, 2, accumulate=2), shards, tmp_path))
    assert "; 2 fit: give --pairs.accumulate 16 or --pairs.batch 2 with --pairs.accumulate 1," in line


def test_a_shard_that_does_not_fit(shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_above(monkeypatch, PairStage, "step", 3)
    assert "not even a shard of 4 fits; give a smaller --pairs.group, --network.channel-base or --resolution" in told(
        of_batch(8, 4), shards, tmp_path
    )


@pytest.mark.parametrize(
    ("ranks", "accumulate", "fitting", "ways"),
    [
        (Ranks(5, 2, 0, 2), 1, 2, "--pairs.batch 4, under"),  # 3 parts would be more than the other worker has shards
        (Ranks(8, 2, 0, 2), 1, 2, "--pairs.accumulate 4 or --pairs.batch 4, under"),
        (Ranks(6, 2, 0, 4), 1, 2, "--pairs.batch 8, under"),
        (Ranks(16, 2, 0, 1), 2, 4, "--pairs.accumulate 8 or --pairs.batch 4 with --pairs.accumulate 1, under"),
    ],
)
def test_what_is_advised_is_possible(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch, ranks: Ranks, accumulate: int, fitting: int, ways: str
) -> None:
    """Each way is taken by what checks settings before a run, and leaves no more at once than fits."""
    refuse_above(monkeypatch, PairStage, "step", fitting)
    run = of_batch(ranks.batch, ranks.group, accumulate)
    line = str(too_large(run, "pairs", ranks, lambda run, ranks: PairStage(run, ranks, CPU), CPU, WORDS))
    assert f"; {fitting} fit: give {ways}" in line
    for way in line.partition("give ")[2].partition(", under")[0].split(" or "):
        given = {"batch": ranks.batch, "accumulate": accumulate} | {key: int(value) for key, value in re.findall(r"pairs.(\w+) (\d+)", way)}
        advised = of_batch(given["batch"], ranks.group, given["accumulate"])
        check_workers(validate(advised), "pairs", ranks.world)
        assert (
            math.ceil(len(Ranks(advised.pairs.batch // ranks.group, ranks.group, 0, ranks.world).hosted) / given["accumulate"]) * 2
            <= fitting
        )


@pytest.mark.parametrize("committed", [False, True])
def test_memory_that_is_short_for_once_is_no_fault_of_the_settings(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """The step fits when it is tried again, or did until a commit: the error is what it was, and workers are started again."""
    original, steps = PairStage.step, []

    def once(stage: Any, *others: Any) -> Any:
        steps.append(1)
        if len(steps) == (6 if committed else 2) or (committed and len(steps) > 6):
            raise torch.OutOfMemoryError(WORDS)
        return original(stage, *others)

    monkeypatch.setattr(PairStage, "step", once)
    run = of_batch(8, 4)
    opened = open_run(str(tmp_path / "run"), run, shards.uri)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        train_worker(opened, "pairs", opened.commits("pairs").claim({}), local_batches(shards, run, "pairs"), Worker(say=lambda line: None))
    assert (opened.commits("pairs").newest() is not None) == committed


def test_stage_3(tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = read_run(shutil.copytree(tiny_run.uri, tmp_path / "run"))
    shutil.rmtree(Path(folder.uri, "video"))
    run = dataclasses.replace(folder.run, video=dataclasses.replace(folder.run.video, group=2))
    folder = dataclasses.replace(folder, run=run)
    refuse_above(monkeypatch, VideoStage, "step", 2)
    batches = local_batches(ShardSet.open(folder.data), run, "video")
    with pytest.raises(InputError, match=r"with 4 clips at once on a worker .*; 2 fit: give --video.batch 2, under another"):
        train_worker(folder, "video", folder.commits("video").claim({}), batches, Worker(say=lambda line: None))
