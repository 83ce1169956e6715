"""Streams of windows: what they give, what they send to tasks, and how they are paced."""

import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest
import ray
from ray.cloudpickle import dumps

from mvgan.config import InputError, Pairs, Run
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.shards import ShardSet
from mvgan.data.synthetic import render_set
from mvgan.data.windows import decode_window, pair_windows
from mvgan.distributed import data, pace, resources
from mvgan.distributed.data import Limits, Source, WindowStream, window_stream
from mvgan.train.ranks import Ranks
from mvgan.train.session import window_order


RUN = Run(resolution=16, pairs=Pairs(pieces_per_window=2, pairs_per_piece=2, batch=8, group=4, mirror=True))
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
    return WindowStream(source(shards), 0, Ranks(2, 4, 0, 2), 4, windows, limits or Limits(1, 8 * MB))


@pytest.mark.usefixtures("ray_session")
def test_a_stream_gives_the_windows_of_the_plain_loop(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the ends of tasks and of segments, in the middle of a run, for a worker that hosts several logical shards."""
    monkeypatch.setattr(data, "TASKS_PER_SEGMENT", 2)
    ranks = Ranks(5, 4, 1, 2)
    windows = pair_windows(shards, RUN)
    part = WindowStream(source(shards), 140, ranks, windows.items_per_window, 37, Limits(1, 8 * MB))
    found = [(index, frames.copy()) for index, frames in part.rows()]
    assert [index for index, _ in found] == list(itertools.islice(window_order(140, ranks, windows.items_per_window), 37))
    for index, frames in found:
        np.testing.assert_array_equal(frames, decode_window(shards, windows[index]))


def test_what_travels_does_not_grow_with_the_run(shards: ShardSet) -> None:
    """25 million pairs; and a task is as long as in a short run."""
    long = window_stream(source(shards), shards, 0, 25_000_000, 1, 2, Limits(1, 8 * MB))
    assert long.count == pytest.approx(25_000_000 / 2 / 4, rel=1e-3)
    assert len(dumps(long)) < len(dumps(stream(shards, 1))) + 100 < 10_000
    assert len(list(long.windows_of_task(1000))) == data.WINDOWS_PER_TASK
    last = (long.count - 1) // data.WINDOWS_PER_TASK
    by_tasks = [index for task in (0, last) for index in long.windows_of_task(task)]
    expected = window_order(0, long.ranks, 4)
    assert by_tasks[: data.WINDOWS_PER_TASK] == list(itertools.islice(expected, data.WINDOWS_PER_TASK))
    assert len(by_tasks) == data.WINDOWS_PER_TASK + long.count - last * data.WINDOWS_PER_TASK


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
        rows = stream(shards, 4000, Limits(1, 1 * MB)).rows()
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
