"""What a simulated cluster has, and what it trains on."""

import math
from dataclasses import dataclass, fields

from mvgan.config import InputError


@dataclass(frozen=True)
class Cluster:
    """Nodes of GPUs, a worker on each GPU. Defaults: nodes of eight H200 with the 16 cores a GPU that were measured; the network of such
    nodes is rated, and S3's requests are what Amazon grants a prefix; other defaults were assumed where that is said."""

    gpus_per_node: int = 8
    """GPUs of a node."""
    cpus_per_node: int = 128
    """Cores of a node."""
    memory_gb: float = 1024
    """Memory of a node, in GB, of which Ray takes three tenths for objects."""
    decode_cpus: int = 0
    """Cores of further nodes without GPUs, which decode."""
    gpu_speed: float = 1.0
    """Speed of a GPU over an H200's. Stage 1 is bound by the GPU's memory: 3.35 TB/s over 4.8 TB/s gives 0.7 for an H100."""
    core_speed: float = 1.0
    """Speed of a core over those of docs/benchmarks.md."""
    step_seconds: float = 0
    """Compute of a step of one worker, where you have measured it; 0 takes what its network and batch predict."""
    decode_pairs_per_s: float = 0
    """Pairs that one core decodes in a second, where you have measured it (python -m jobs.bench data); 0 takes the prediction."""
    nvlink_gb_per_s: float = 450
    """Bytes that a GPU passes on within a node."""
    network_gb_per_s: float = 12.5
    """Bytes that a node passes on to others, and reads from S3: 12.5 is 100 Gb/s."""
    upload_gb_per_s: float = 0.25
    """Bytes of a commit that one process writes to S3; assumed."""
    s3_gets_per_s: float = 5500
    """Reads that S3 takes in a second for one prefix."""
    s3_prefixes: int = 1
    """Parts into which S3 has split the prefix of the shards; it does so by itself under load, and answers 503 until then."""
    s3_latency_s: float = 0.1
    """Time until the first byte of a read; Amazon names 0.1 to 0.2."""
    s3_stream_gb_per_s: float = 0.085
    """Bytes of one read; Amazon names 85 to 90 MB/s."""
    node_dollars: float = 0
    """Price of a node of GPUs for an hour; with it the cost is told."""


@dataclass(frozen=True)
class Videos:
    """What is trained on. Defaults are UCF101's."""

    num_videos: int = 13320
    """Videos of the set."""
    video_frames: float = 187
    """Mean frames of a video."""
    source_tb: float = 0.007
    """All sources together, in TB."""
    frame_bytes: float = 0
    """Of a frame in shards; 0 takes what the size predicts."""
    on_s3: bool = True
    """Shards are read from S3; otherwise from a disk of each node."""

    @property
    def num_frames(self) -> float:
        """Frames of all videos."""
        return self.num_videos * self.video_frames


def check(cluster: Cluster, videos: Videos) -> None:
    """Raises InputError for a number that no cluster or set of videos has."""
    may_be_zero = {"decode_cpus", "step_seconds", "decode_pairs_per_s", "node_dollars", "frame_bytes", "on_s3"}
    for group, name in ((cluster, "cluster"), (videos, "videos")):
        for field in fields(group):
            value = getattr(group, field.name)
            if not math.isfinite(value) or value < 0 or (value == 0 and field.name not in may_be_zero):
                least = "from 0 on" if field.name in may_be_zero else "above 0"
                raise InputError(f"--{name}.{field.name.replace('_', '-')} is {value:g}; give a number {least}")
    if cluster.cpus_per_node <= cluster.gpus_per_node and not cluster.decode_cpus:
        raise InputError(
            f"--cluster.cpus-per-node {cluster.cpus_per_node} leaves no core to decoding beside {cluster.gpus_per_node} workers; "
            "give more, or --cluster.decode-cpus"
        )
