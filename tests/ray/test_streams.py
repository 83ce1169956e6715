"""Streams of windows: what they give, what they send to tasks, and how they are paced."""

import dataclasses
import itertools
import os
import threading
import time

import numpy as np
import pytest
import ray
from ray.cloudpickle import dumps

from mvgan.config import InputError, Pairs, Resources, Run
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.shards import ShardSet
from mvgan.data.synthetic import render_set
from mvgan.data.windows import decode_window, pair_windows
from mvgan.distributed import bench, data, pace, resources
from mvgan.distributed.data import Limits, Source, WindowStream, window_stream, windows_together
from mvgan.train.ranks import Ranks
from mvgan.train.session import window_order


RUN = Run(resolution=16, pairs=Pairs(pieces_per_window=2, pairs_per_piece=2, batch=8, group=4, mirror=True))
WINDOW_BYTES = 4 * 2 * 3 * 16**2
MB = 2**20


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Shards of four clips."""
    folder = tmp_path_factory.mktemp("data")
    render_set(str(folder / "videos"), 4, 24, size=32)
    plan = plan_ingest(str(folder / "videos"), str(folder / "shards"), RUN)
    begin(plan)
    finish(plan, [ingest_group(group) for group in plan.groups])
    return ShardSet.open(str(folder / "shards"))


def source(shards: ShardSet) -> Source:
    return Source(shards.uri, shards.content_hash, RUN, "pairs")


def stream(shards: ShardSet, windows: int, limits: Limits | None = None) -> WindowStream:
    """The first `windows` windows of the first of two workers."""
    limits = limits or Limits(2, 8 * MB)
    return WindowStream(source(shards), 0, Ranks(2, 4, 0, 2), 4, WINDOW_BYTES, windows, limits, *windows_together(limits, WINDOW_BYTES))


@pytest.mark.usefixtures("ray_session")
def test_a_stream_gives_the_windows_of_the_plain_loop(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the ends of tasks and of segments, in the middle of a run, for a worker that hosts several logical shards."""
    monkeypatch.setattr(data, "TASKS_PER_SEGMENT", 2)
    ranks = Ranks(5, 4, 1, 2)
    windows = pair_windows(shards, RUN)
    part = WindowStream(source(shards), 140, ranks, windows.items_per_window, WINDOW_BYTES, 37, Limits(2, 8 * MB), 3, 6)
    found = [(index, frames.copy()) for index, frames in part.rows()]
    assert [len(list(part.blocks_of_task(task))) for task in range(7)] == [2] * 6 + [1]
    assert [index for index, _ in found] == list(itertools.islice(window_order(140, ranks, windows.items_per_window), 37))
    for index, frames in found:
        np.testing.assert_array_equal(frames, decode_window(shards, windows[index]))


def test_what_travels_does_not_grow_with_the_run(shards: ShardSet) -> None:
    """25 million pairs; and a task is as long as in a short run."""
    long = window_stream(source(shards), shards, 0, 25_000_000, 1, 2, Limits(2, 8 * MB))
    assert long.window_bytes == WINDOW_BYTES
    assert long.count == pytest.approx(25_000_000 / 2 / 4, rel=1e-3)
    assert len(dumps(long)) < len(dumps(stream(shards, 1))) + 100 < 10_000
    last = (long.count - 1) // long.windows_per_task
    first, rest = (list(itertools.chain(*long.blocks_of_task(task))) for task in (0, last))
    assert 0 <= 2 * MB - len(first) * WINDOW_BYTES < long.windows_per_block * WINDOW_BYTES
    assert first == list(itertools.islice(window_order(0, long.ranks, 4), long.windows_per_task))
    assert len(rest) == long.count - last * long.windows_per_task


@pytest.mark.parametrize("window", [1000, WINDOW_BYTES, 5 * MB, 25 * MB, 200 * MB])
@pytest.mark.parametrize("limits", [Limits(2, 8 * MB), Limits(1, 256 * MB), Limits(15, 9000 * MB)])
def test_blocks_and_tasks_are_of_whole_windows_and_bounded(shards: ShardSet, window: int, limits: Limits) -> None:
    """Blocks of 32 MiB and 16 windows, tasks of 128 MiB, half of the store for all tasks at once; but for a window that is
    larger alone, which then has the store for itself."""
    limits = limits.for_windows(window)
    assert limits.tasks == 1 or limits.tasks * window <= limits.store_bytes / 2
    most = min(128 * MB, limits.store_bytes / 2 / limits.tasks)
    block, task = windows_together(limits, window)
    assert block == 1 or (block * window <= min(32 * MB, most) and block <= 16)
    assert block == 16 or min(32 * MB, most) < (block + 1) * window
    assert task % block == 0
    assert task == block or task * window <= most < (task + block) * window
    part = dataclasses.replace(stream(shards, 1000), windows_per_block=block, windows_per_task=task)
    blocks = [indices for number in range(-(-1000 // task)) for indices in part.blocks_of_task(number)]
    assert max(map(len, blocks)) == min(block, 1000)
    assert list(itertools.chain(*blocks)) == list(itertools.islice(window_order(0, part.ranks, 4), 1000))


@pytest.mark.usefixtures("ray_session")
def test_shares_of_a_cluster_are_equal() -> None:
    """Of four CPUs and a store of 200 MiB, as the session has: one worker leaves three, two leave one each."""
    assert Limits.of_cluster(1).tasks == 3 and Limits.of_cluster(2).tasks == 1 and Limits.of_cluster(4).tasks == 1
    assert Limits.of_cluster(2).store_bytes == pytest.approx(25 * MB, rel=0.01)
    assert Limits.of_cluster(2) == Limits.of(4, ray.cluster_resources()["object_store_memory"], 2)


def test_benchmarks_know_how_many_tasks_decode_at_once(shards: ShardSet) -> None:
    """As many as the CPUs of this machine, with a store that has room for them."""
    alone = resources.own_cpus(Resources()) - 1
    assert bench.stream_tasks(shards.uri, RUN) == alone == max(2, len(os.sched_getaffinity(0)))


@pytest.mark.usefixtures("ray_session")
def test_shards_that_were_made_again_are_refused(shards: ShardSet) -> None:
    other = dataclasses.replace(source(shards), content_hash="0")
    with pytest.raises(InputError, match="is another shard set than when training started"):
        next(dataclasses.replace(stream(shards, 4), source=other).rows())


@pytest.mark.usefixtures("ray_session")
def test_scheduling_is_paced(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of the scheduler while the stream is ahead and nothing is read, with and without the pause."""

    steps = itertools.count()
    step = pace.Pace.on_execution_step

    def counted(self: pace.Pace, executor: object) -> None:
        next(steps)
        step(self, executor)

    def steps_per_s(pause: float) -> float:
        monkeypatch.setattr(pace, "STEP_S", pause)
        rows = stream(shards, 4000, Limits(2, 1 * MB)).rows()
        next(rows)
        before, started = next(steps), time.monotonic()
        time.sleep(1.5)
        return (next(steps) - before - 1) / (time.monotonic() - started)

    monkeypatch.setattr(pace.Pace, "on_execution_step", counted)
    default = pace.STEP_S
    assert 1 < steps_per_s(default) <= 1 / default
    assert steps_per_s(0) > 2 / default, "Ray no longer spins: the pace may go"


def test_a_ray_without_the_callback_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    context = ray.data.DataContext.get_current().copy()
    monkeypatch.delattr(pace.ExecutionCallback, "on_execution_step")
    monkeypatch.delattr(pace.Pace, "on_execution_step")
    with pytest.raises(RuntimeError, match="takes no callback at each scheduling step"):
        pace.set_pace(context)


@pytest.mark.usefixtures("ray_session")
def test_streams_that_were_left_have_ended_before_ray_does(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of theirs that met a Ray that was shut down ended the process, without a word."""

    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith(resources.STREAM_THREADS)]

    at_shutdown: list[str] = []
    monkeypatch.setattr(ray, "shutdown", lambda: at_shutdown.extend(["ray.shutdown", *threads()]))
    rows = stream(shards, 4000).rows()
    next(rows)
    time.sleep(1)
    assert threads(), "Ray Data names its threads otherwise now"
    rows.close()
    resources.shut_down()
    assert at_shutdown == ["ray.shutdown"]
