"""A stream of ten times the windows fills the object store no more, and spills nothing."""

import dataclasses
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from mvgan.data.shards import ShardSet
from mvgan.distributed.data import Limits
from tests.ray.conftest import ray_session
from tests.ray.test_streams import MB, shards, stream


__all__ = ["ray_session", "shards"]  # fixtures


@dataclasses.dataclass
class Store:
    """Most bytes in the object store since it was looked at first, and the bytes spilled by then."""

    peak: int = 0
    spilled: int = 0


def sampled(store: Store, stop: threading.Event) -> None:
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    while not stop.wait(0.05):
        stats = get_memory_info_reply(state).store_stats
        store.peak = max(store.peak, stats.object_store_bytes_used)
        store.spilled = max(store.spilled, stats.spilled_bytes_total)


def peak_of(rows: Iterator[tuple[int, np.ndarray]], windows: int) -> Store:
    """The store while `windows` windows are read, the first only after decoding had time to run ahead."""
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


@pytest.mark.usefixtures("ray_session")
def test_ten_times_the_windows_fill_the_store_no_more(shards: ShardSet) -> None:
    """2,000 windows are twice, 20,000 twenty times what the stream may keep (6 MB). The first stream only starts the processes."""
    peak_of(stream(shards, 200, Limits(1, 6 * MB)).rows(), 200)
    one, ten = (peak_of(stream(shards, windows, Limits(1, 6 * MB)).rows(), windows) for windows in (2_000, 20_000))
    print(f"peak of the store: {one.peak / MB:.2f} MB at 2,000 windows, {ten.peak / MB:.2f} MB at 20,000")
    assert one.spilled == ten.spilled == 0
    assert 2 * MB < ten.peak <= 1.1 * one.peak
