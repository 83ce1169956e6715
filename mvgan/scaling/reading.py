"""What a pair takes on its way from shards to a worker: requests, bytes, cores, and room in the object store."""

import math
from dataclasses import dataclass

from mvgan.config import Run
from mvgan.scaling import rates
from mvgan.scaling.cluster import Cluster, Videos


ROWS_PER_GROUP, OPEN_FILES, CACHED_BYTES, READ_AHEAD_BYTES = 16, 32, 256 << 20, 1 << 20
MIN_GROUP_BYTES, GROUPS = 1 << 20, 32
"""As in `mvgan.data.shards`, `mvgan.data.ingest` and `mvgan.storage.s3`, which load more than arithmetic needs; a test compares."""

OPEN_REQUESTS, READ_REQUESTS = 2, 1
"""Requests that opening a shard takes, and reading a row group of an open one; counted at a server by tests/s3/test_scale.py."""

STORE_OF_MEMORY, MOST_STORE = 0.3, 200e9
"""Ray's object store on a node: its share of the memory, and at most so much."""
STORE_SHARE, TASK_BYTES, BLOCK_BYTES, BLOCK_WINDOWS = 0.25, 128 << 20, 32 << 20, 16
"""As in `mvgan.distributed.data`; a test compares."""
BLOCK_S = 0.02
"""What a block costs the worker that reads it, whatever its size (docs/benchmarks.md)."""


@dataclass(frozen=True)
class Shards:
    """A shard set as ingest makes it."""

    groups: float
    """Of sources, each of which ends with a shard of its own."""
    count: float
    num_bytes: float
    manifest_bytes: float

    @classmethod
    def of(cls, run: Run, videos: Videos) -> "Shards":
        """Sources are cut into groups by their own size, not by that of their shards."""
        num_bytes = videos.num_frames * (videos.frame_bytes or rates.frame_bytes(run.resolution))
        size, source = run.ingest.shard_mb * 2**20, videos.source_tb * 1e12
        limit = min(size, max(MIN_GROUP_BYTES, source / GROUPS))
        mean = source / videos.num_videos
        groups = max(1.0, videos.num_videos / math.ceil(limit / mean))
        count = groups * math.ceil(num_bytes / groups / size)
        per_video, per_shard = rates.MANIFEST_BYTES
        return cls(groups, count, num_bytes, per_video * videos.num_videos + per_shard * count)


@dataclass(frozen=True)
class Reading:
    """What a pair takes, on average."""

    requests: float
    """Reads of S3; 0 from a disk."""
    source_bytes: float
    """Bytes of shards that are read."""
    decode_s: float
    """Of a core's time, to read and decode."""
    draw_s: float
    """Of a core's time, to draw its window."""
    wait_s: float
    """That a decoding task waits for S3: it reads one thing after another."""

    @property
    def task_s(self) -> float:
        """Of a decoding task."""
        return self.decode_s + self.draw_s + self.wait_s

    @classmethod
    def of(cls, run: Run, videos: Videos, shards: Shards, cluster: Cluster) -> "Reading":
        """Of a set that is drawn from at random, with many processes that each keep some of it."""
        pairs = run.pairs.pairs_per_piece
        kept = min(1.0, CACHED_BYTES / shards.num_bytes)
        # A pair's second frame may lie in the next piece, which is in the same row group but for the last one's.
        groups = (1 - kept) * (1 + (rates.draw(run, pairs).pieces - 1) / ROWS_PER_GROUP)
        opened = (1 - kept) * (1 - min(1.0, OPEN_FILES / shards.count))
        group_bytes = ROWS_PER_GROUP * run.ingest.frames_per_piece * (videos.frame_bytes or rates.frame_bytes(run.resolution))
        ahead = READ_AHEAD_BYTES if videos.on_s3 else 0
        decode_s = rates.decode_seconds(run, "S3, uncached" if videos.on_s3 else "shards, uncached") / cluster.core_speed
        requests = (groups * READ_REQUESTS + opened * OPEN_REQUESTS) / pairs if videos.on_s3 else 0.0
        source_bytes = groups * (group_bytes + ahead) / pairs
        return cls(
            requests,
            source_bytes,
            1 / cluster.decode_pairs_per_s if cluster.decode_pairs_per_s else decode_s,
            rates.DRAW_NS * 1e-9 * videos.num_videos / (run.pairs.pieces_per_window * pairs) / cluster.core_speed,
            requests * cluster.s3_latency_s + (source_bytes / cluster.s3_stream_gb_per_s / 1e9 if videos.on_s3 else 0.0),
        )


@dataclass(frozen=True)
class Stream:
    """One worker's stream of Ray Data, within its share of the cores and of the object stores."""

    cpu_tasks: int
    """Decoding tasks for which there is a core."""
    store_tasks: int
    """Those that can each keep a window in half of the store; the fewer of both are at work at once."""
    block_pairs: int
    """Pairs of a block."""

    @classmethod
    def of(cls, run: Run, workers: int, nodes: int, cluster: Cluster) -> "Stream":
        """As `mvgan.distributed.data` shares a cluster."""
        cpus = nodes * cluster.cpus_per_node + cluster.decode_cpus
        store = nodes * min(MOST_STORE, STORE_OF_MEMORY * cluster.memory_gb * 1e9)
        window_pairs = run.pairs.pieces_per_window * run.pairs.pairs_per_piece
        window = window_pairs * 3 * run.network.frames * run.resolution**2
        share = STORE_SHARE * store / workers
        by_cpu, by_store = max(1, int((cpus - workers) / workers)), max(1, int(share / 2 // window))
        task_bytes = min(TASK_BYTES, share / min(by_cpu, by_store) / 2)
        block = max(1, min(BLOCK_WINDOWS, int(min(BLOCK_BYTES, task_bytes) // window)))
        return cls(by_cpu, by_store, block * window_pairs)
