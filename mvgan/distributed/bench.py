"""What benchmarks measure on Ray."""

import os
from collections.abc import Iterator

from mvgan.config import InputError, Resources, Run
from mvgan.data.shards import ShardSet
from mvgan.distributed.data import WINDOWS_PER_TASK, Limits, Source, window_stream
from mvgan.distributed.resources import DECODE_CPUS, session


def streamed_pairs(data: str, run: Run) -> Iterator[int]:
    """Pairs of the stream of stage 1, one decoding task at a time, on a cluster of this process's own.

    Counted task by task, since the windows of a task come at once. Raises InputError when RAY_ADDRESS names a cluster,
    whose processes would be counted to nobody.
    """
    if os.environ.get("RAY_ADDRESS"):
        raise InputError("RAY_ADDRESS is set, but benchmarks count the processes of a cluster of their own; unset it")
    shards = ShardSet.open(data, verify=False)
    with session(Resources()):
        limits = Limits(DECODE_CPUS, Limits.of_cluster(1).store_bytes)
        stream = window_stream(Source(data, shards.content_hash, run, "pairs"), shards, 0, 10**8, 0, 1, limits)
        for number, _ in enumerate(stream.rows(), 1):
            if number % WINDOWS_PER_TASK == 0:
                yield WINDOWS_PER_TASK * stream.items_per_window
