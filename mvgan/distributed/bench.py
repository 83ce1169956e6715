"""What benchmarks measure on Ray."""

import os
from collections.abc import Iterator

from mvgan.config import InputError, Resources, Run
from mvgan.data.shards import ShardSet
from mvgan.distributed.data import Limits, Source, WindowStream, window_stream
from mvgan.distributed.resources import own_cpus, own_store_bytes, session


def streamed_pairs(data: str, run: Run) -> Iterator[int]:
    """Pairs of the stream of stage 1 as one worker has it, on a cluster of this process's own.

    Counted block by block, since the windows of a block come at once. Raises InputError when RAY_ADDRESS names a cluster,
    whose processes would be counted to nobody.
    """
    if os.environ.get("RAY_ADDRESS"):
        raise InputError("RAY_ADDRESS is set, but benchmarks count the processes of a cluster of their own; unset it")
    with session(Resources()):
        stream = _stream(data, run, Limits.of_cluster(1))
        for number, _ in enumerate(stream.rows(), 1):
            if number % stream.windows_per_block == 0:
                yield stream.windows_per_block * stream.items_per_window


def stream_tasks(data: str, run: Run) -> int:
    """How many tasks of that stream decode at once."""
    return _stream(data, run, Limits.of(own_cpus(Resources()), own_store_bytes(Resources()), 1)).limits.tasks


def _stream(data: str, run: Run, limits: Limits) -> WindowStream:
    shards = ShardSet.open(data, verify=False)
    return window_stream(Source(data, shards.content_hash, run, "pairs"), shards, 0, 10**8, 0, 1, limits)
