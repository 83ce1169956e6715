"""A stream of ten times the windows fills the object store no more, and spills nothing."""

import dataclasses
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from mvgan.config import Pairs
from mvgan.data.shards import ShardSet
from mvgan.distributed import data
from mvgan.distributed.data import Limits, Source, WindowStream
from mvgan.train.ranks import Ranks
from tests.ray.conftest import ray_session
from tests.ray.test_streams import MB, RUN, shards


__all__ = ["ray_session", "shards"]  # fixtures

PAIRS = Pairs(pieces_per_window=4, pairs_per_piece=16, batch=8, group=4)
"""Windows of 64 pairs as in training, of 96 KiB at 16 px: in blocks of them as large as they are in training."""
LIMITS = Limits(1, 32 * MB)
"""Well below the half of the store that Ray would fill without a limit."""


@dataclasses.dataclass
class Store:
    """Most bytes in the object store since it was looked at first, and the bytes spilled by then."""

    peak: int = 0
    spilled: int = 0


def stream(shards: ShardSet, windows: int) -> WindowStream:
    """The first `windows` windows of a run on few shards: they are read over and over."""
    source = Source(shards.uri, shards.content_hash, dataclasses.replace(RUN, pairs=PAIRS), "pairs")
    window_bytes = 64 * 2 * 3 * 16**2
    sizes = data.windows_together(LIMITS, window_bytes)
    return WindowStream(source, 0, Ranks(2, 4, 0, 1), 64, window_bytes, windows, LIMITS, *sizes)


def sampled(store: Store, stop: threading.Event) -> None:
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    while not stop.wait(0.05):
        stats = get_memory_info_reply(state).store_stats
        store.peak = max(store.peak, stats.object_store_bytes_used)
        store.spilled = max(store.spilled, stats.spilled_bytes_total)


def peak_of(rows: Iterator[tuple[int, np.ndarray]], windows: int) -> Store:
    """The store while `windows` windows are read, most of them only after decoding had time to run ahead."""
    store, stop = Store(), threading.Event()
    sampler = threading.Thread(target=sampled, args=(store, stop))
    sampler.start()
    try:
        next(rows)
        grown = -1
        while store.peak > grown:  # Ray tells what the store holds with seconds of delay
            grown = store.peak
            time.sleep(8)
        assert 1 + sum(1 for _ in rows) == windows
    finally:
        stop.set()
        sampler.join()
    return store


@pytest.fixture(scope="module")
def freed_at_once() -> Iterator[None]:
    """Objects leave the store as they are freed. By default Ray gathers those of a second, which are as many as were decoded in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_free_objects_period_milliseconds", "20")
        yield


@pytest.mark.usefixtures("freed_at_once", "ray_session")
def test_ten_times_the_windows_fill_the_store_no_more(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 windows are 6 times, 20,000 are 60 times what the stream may keep, in several executions of Ray Data."""
    monkeypatch.setattr(data, "TASKS_PER_SEGMENT", 50)
    assert 20_000 / stream(shards, 1).windows_per_task > 2 * 50
    one, ten = (peak_of(stream(shards, windows).rows(), windows) for windows in (2_000, 20_000))
    print(f"peak of the store: {one.peak / MB:.1f} MB at 2,000 windows, {ten.peak / MB:.1f} MB at 20,000")
    assert one.spilled == ten.spilled == 0
    assert 0.8 * LIMITS.store_bytes < ten.peak <= 1.1 * one.peak
    assert ten.peak <= 1.6 * LIMITS.store_bytes
