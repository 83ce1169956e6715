"""Windows through Ray Data: each worker has its own ordered stream of the windows of its logical shards."""

import functools
import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
from ray.data import DataIterator, ExecutionResources
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.train import DataConfig
from torch import Tensor

from mvgan.data.shards import ShardSet
from mvgan.data.windows import Windows, decode_window
from mvgan.distributed.resources import DECODE_CPUS
from mvgan.storage.run import RunFolder, read_run
from mvgan.train.ranks import Ranks
from mvgan.train.session import Batches, batches_from_windows, chunks_of, group_of, num_shards, plan_of, window_order, windows_of


WINDOWS_PER_TASK = 8
"""Windows that one decoding task yields one by one, as long as that makes no more than MOST_TASKS."""

MOST_TASKS = 4096
"""Tasks of one stream: each costs the scheduler some memory and time at every start."""


STEP_S = 0.02
"""Least time between two scheduling steps of a stream."""


class _Pace(ExecutionCallback):
    """Keeps Ray Data's scheduler from spinning.

    A stream is scheduled by a thread of the worker that reads it. While decoding is ahead of training there is nothing
    to schedule, but the thread loops without a pause and holds the interpreter's lock: training was 3 times slower.
    """

    def on_execution_step(self, executor: Any) -> None:
        time.sleep(STEP_S)


class WindowStreams(DataConfig):
    """Gives each worker the windows that come after the newest commit.

    Ray calls `configure` again whenever it restarts the workers, so where to start is read there.
    """

    def __init__(self, run_uri: str, stage: str) -> None:
        super().__init__()
        self.run_uri, self.stage = run_uri, stage

    def configure(self, datasets: dict[str, Any], world_size: int, *args: Any, **kwargs: Any) -> list[dict[str, DataIterator]]:
        """One stream a worker, under the name `train`."""
        folder = read_run(self.run_uri)
        shards = ShardSet.open(folder.data, verify=False)
        commit = folder.commits(self.stage).newest()
        start = commit.images if commit else 0
        return [{"train": _stream(folder, self.stage, shards, start, rank, world_size)} for rank in range(world_size)]


def _stream(folder: RunFolder, stage: str, shards: ShardSet, start: int, rank: int, world: int) -> DataIterator:
    ranks = Ranks(num_shards(folder.run, stage), group_of(folder.run, stage), rank, world)
    windows = windows_of(folder.run, shards, stage)
    steps = (plan_of(folder.run, stage, len(shards)).end - start) // ranks.batch
    turns = math.ceil((steps * ranks.group + windows.items_per_window) / windows.items_per_window)
    order = list(itertools.islice(window_order(start, ranks, windows.items_per_window), turns * len(ranks.hosted)))
    chunks = chunks_of(order, max(WINDOWS_PER_TASK, math.ceil(len(order) / MOST_TASKS)))
    decode = functools.partial(_decode_chunk, shards=shards, windows=windows, chunks=chunks)
    rows = ray.data.range(len(chunks), override_num_blocks=len(chunks))
    dataset = rows.map_batches(decode, batch_size=1, num_cpus=DECODE_CPUS)
    dataset.context.custom_execution_callback_classes = [_Pace]
    dataset.context.target_max_block_size = 64 * 2**20
    dataset.context.raise_original_map_exception = True
    options = dataset.context.execution_options
    options.preserve_order = True
    cpus = max(DECODE_CPUS, (ray.cluster_resources().get("CPU", 1) - world) / world)
    store = ray.cluster_resources().get("object_store_memory", 2**30)
    options.resource_limits = ExecutionResources(cpu=cpus, object_store_memory=0.25 * store / world)
    return dataset.iterator()


def _decode_chunk(
    batch: dict[str, np.ndarray], shards: ShardSet, windows: Windows, chunks: list[list[int]]
) -> Iterator[dict[str, np.ndarray]]:
    for row in batch["id"]:
        for index in chunks[row]:
            yield {"window": np.array([index]), "frames": decode_window(shards, windows[index])[None]}


def streamed_batches(iterator: DataIterator, items_per_window: int) -> Batches:
    """The batches of this worker from its stream."""

    def batches(images: int, ranks: Ranks) -> Iterator[Tensor]:
        rows = iterator.iter_batches(batch_size=1, prefetch_batches=2, batch_format="numpy")
        decoded = ((int(row["window"][0]), row["frames"][0]) for row in rows)
        return batches_from_windows(decoded, images, ranks, items_per_window)

    return batches
