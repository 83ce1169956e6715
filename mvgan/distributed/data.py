"""Windows through Ray Data: each worker has its own ordered stream of the windows of its logical shards."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from ray.data import Dataset, ExecutionResources
from ray.train import DataConfig
from torch import Tensor

from mvgan.config import InputError, Run
from mvgan.data.decode import keep_freed_memory
from mvgan.data.shards import ShardSet
from mvgan.data.windows import Windows, decode_window
from mvgan.distributed.pace import set_pace
from mvgan.distributed.resources import DECODE_CPUS
from mvgan.storage.run import read_run
from mvgan.train.ranks import Ranks
from mvgan.train.session import Batches, batches_from_windows, group_of, num_shards, plan_of, window_at, windows_of


BLOCK_BYTES, BLOCK_WINDOWS = 32 * 2**20, 16
"""Most of a block, but for a window that is larger alone. Each block costs Ray some 20 ms, whatever its size; the first batch
waits for a whole one."""

TASK_BYTES = 128 * 2**20
"""Most bytes that a decoding task gives, block by block: what a lost task repeats."""

TASKS_PER_SEGMENT = 256
"""Tasks of one execution of Ray Data, which lists them all, each an object in the store, before the first begins. The next
execution begins when this one is read: training then waits for its first block."""

STORE_SHARE = 0.25
"""Share of the object store that the streams of all workers may fill together. While the block that is read next is missing,
Ray lets the tasks that run give the rest of theirs beyond it: at most half as much again. And what was read stays until Ray frees it,
once a second: as much as was decoded in that time."""


@dataclass(frozen=True)
class Limits:
    """What one stream may use: decoding tasks at once, and bytes of blocks that wait in the object store."""

    tasks: int
    store_bytes: float

    @classmethod
    def of(cls, cpus: float, store_bytes: float, world: int) -> "Limits":
        """An equal share for each of `world` workers of what a cluster has beside them: a task for each CPU, and at least one."""
        return cls(max(1, int((cpus - world) / world)), STORE_SHARE * store_bytes / world)

    @classmethod
    def of_cluster(cls, world: int) -> "Limits":
        """The same, of the cluster that this process is connected to."""
        total = ray.cluster_resources()
        return cls.of(total.get("CPU", 1), total.get("object_store_memory", 2**30), world)

    def for_windows(self, window_bytes: int) -> "Limits":
        """With no more tasks than can each keep a window in half of the store."""
        return replace(self, tasks=max(1, min(self.tasks, int(self.store_bytes / 2 // window_bytes))))

    @property
    def task_bytes(self) -> float:
        """Most bytes that a task gives: all tasks at once fill half of the store, as later ones wait in it for the first."""
        return min(TASK_BYTES, self.store_bytes / self.tasks / 2)


@dataclass(frozen=True)
class Source:
    """What the windows of a stage are decoded from. Goes to every decoding task: small whatever the data and the run's length."""

    data: str
    content_hash: str
    run: Run
    stage: str


@functools.lru_cache(maxsize=2)
def _opened(source: Source) -> tuple[ShardSet, Windows]:
    """The shards and windows of a source, once a process: a manifest of many videos takes longer to read than a window."""
    keep_freed_memory()
    shards = ShardSet.open(source.data, verify=False)
    if shards.content_hash != source.content_hash:
        raise InputError(f"{source.data} is another shard set than when training started; leave it as it was, or start a new run")
    return shards, windows_of(source.run, shards, source.stage)


@dataclass(frozen=True)
class WindowStream:
    """The next `count` windows after `images` samples of the worker that `ranks` names, decoded by tasks of Ray Data.

    A task decodes `windows_per_task` windows and gives `windows_per_block` of them at once.
    """

    source: Source
    images: int
    ranks: Ranks
    items_per_window: int
    window_bytes: int
    count: int
    limits: Limits
    windows_per_block: int
    windows_per_task: int

    def rows(self) -> Iterator[tuple[int, np.ndarray]]:
        """(window index, uint8 [items, frames, 3, h, w]) in order. The arrays lie in the object store: read only."""
        tasks = math.ceil(self.count / self.windows_per_task)
        for first in range(0, tasks, TASKS_PER_SEGMENT):
            dataset = self._segment(first, min(TASKS_PER_SEGMENT, tasks - first))
            # Blocks as they are: batches of a size would be copied together.
            for block in dataset.iter_batches(batch_size=None, prefetch_batches=2, batch_format="numpy"):
                yield from zip(block["window"].tolist(), block["frames"], strict=True)

    def blocks_of_task(self, task: int) -> Iterator[list[int]]:
        """The windows that a task decodes, block by block: a function of its number, so that no list of them travels."""
        end = min((task + 1) * self.windows_per_task, self.count)
        for first in range(task * self.windows_per_task, end, self.windows_per_block):
            places = range(first, min(first + self.windows_per_block, end))
            yield [window_at(place, self.images, self.ranks, self.items_per_window) for place in places]

    def _segment(self, first: int, tasks: int) -> Dataset:
        # Not ray.data.range, which would be a task of one CPU before each of ours.
        numbers = ray.data.from_items(list(range(first, first + tasks)), override_num_blocks=tasks)
        decode = functools.partial(_decode, stream=self)
        dataset = numbers.map_batches(decode, batch_size=1, num_cpus=DECODE_CPUS)
        set_pace(dataset.context)
        # Ray puts what a task yields together until it is larger than this: what is yielded at once is just so.
        dataset.context.target_max_block_size = self.windows_per_block * self.window_bytes - 1
        dataset.context.memory_usage_poll_interval_s = None  # a thread in each decoding process, for statistics
        dataset.context.raise_original_map_exception = True
        options = dataset.context.execution_options
        options.preserve_order = True
        options.resource_limits = ExecutionResources(cpu=self.limits.tasks * DECODE_CPUS, object_store_memory=self.limits.store_bytes)
        return dataset


def _decode(batch: dict[str, np.ndarray], stream: WindowStream) -> Iterator[dict[str, np.ndarray]]:
    """The body of a decoding task."""
    shards, windows = _opened(stream.source)
    for task in batch["item"].tolist():
        for indices in stream.blocks_of_task(task):
            decoded = [decode_window(shards, windows[index]) for index in indices]
            yield {"window": np.array(indices), "frames": np.stack(decoded) if len(decoded) > 1 else decoded[0][None]}


class WindowStreams(DataConfig):
    """Gives each worker the windows that come after the newest commit.

    Ray calls `configure` again whenever it restarts the workers, so where to start is read there.
    """

    def __init__(self, run_uri: str, stage: str, trainings: int) -> None:
        """trainings: as many as this one use the cluster at once; each takes an equal share of it."""
        super().__init__()
        self.run_uri, self.stage, self.trainings = run_uri, stage, trainings

    def configure(self, datasets: dict[str, Any], world_size: int, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """One stream a worker, under the name `train`: what `ray.train.get_dataset_shard` gives there."""
        folder = read_run(self.run_uri)
        shards = ShardSet.open(folder.data, verify=False)
        source = Source(folder.data, shards.content_hash, folder.run, self.stage)
        commit = folder.commits(self.stage).newest()
        start, end = commit.images if commit else 0, plan_of(folder.run, self.stage, len(shards)).end
        limits = Limits.of_cluster(world_size * self.trainings)
        return [{"train": window_stream(source, shards, start, end, rank, world_size, limits)} for rank in range(world_size)]


def window_stream(source: Source, shards: ShardSet, start: int, end: int, rank: int, world: int, limits: Limits) -> WindowStream:
    """The windows that worker `rank` needs to go from `start` to `end` samples of all workers."""
    ranks = Ranks(num_shards(source.run, source.stage), group_of(source.run, source.stage), rank, world)
    windows = windows_of(source.run, shards, source.stage)
    steps = (end - start) // ranks.batch
    turns = math.ceil((steps * ranks.group + windows.items_per_window) / windows.items_per_window)
    frame_bytes = 3 * shards.resolution**2
    window_bytes = windows.items_per_window * windows.frames_per_item * frame_bytes
    limits = limits.for_windows(window_bytes)
    sizes = windows_together(limits, window_bytes)
    return WindowStream(source, start, ranks, windows.items_per_window, window_bytes, turns * len(ranks.hosted), limits, *sizes)


def windows_together(limits: Limits, window_bytes: int) -> tuple[int, int]:
    """How many windows go into a block and into a task: at least one, and whole blocks into a task."""
    block = max(1, min(BLOCK_WINDOWS, int(min(BLOCK_BYTES, limits.task_bytes) // window_bytes)))
    return block, block * max(1, int(limits.task_bytes // (block * window_bytes)))


def streamed_batches(stream: WindowStream) -> Batches:
    """The batches of this worker from its stream."""

    def batches(images: int, ranks: Ranks) -> Iterator[Tensor]:
        return batches_from_windows(stream.rows(), images, ranks, stream.items_per_window)

    return batches
