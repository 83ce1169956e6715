"""Gradients between workers, as docs/scaling.md has the formula, and commits."""

import math
from dataclasses import dataclass

from mvgan.config import Run
from mvgan.scaling import rates
from mvgan.scaling.cluster import Cluster
from mvgan.scaling.work import discriminator_work, generator_work


BUCKET_BYTES, HOP_S = 25e6, 20e-6
"""Of DDP's buckets; the time of a hop of a ring is assumed."""

COPY_GB_PER_S = 10
"""Of a commit's state from the GPU to memory, while training stands still; assumed."""


@dataclass(frozen=True)
class Exchange:
    """What a step exchanges, on average."""

    num_bytes: float
    buckets: float

    @classmethod
    def of(cls, run: Run) -> "Exchange":
        """Each phase exchanges the float32 gradients of its network."""
        due = rates.due(run)
        nets = {
            4 * generator_work(run.network, run.resolution).parameters: due["G"] + due["path length"],
            4 * discriminator_work(run.network, run.resolution).parameters: due["D"] + due["R1"],
        }
        num_bytes = sum(size * times for size, times in nets.items())
        return cls(num_bytes, sum(math.ceil(size / BUCKET_BYTES) * times for size, times in nets.items()))

    def seconds(self, workers: int, cluster: Cluster) -> float:
        """In a ring of all workers, nothing of it hidden behind computing."""
        if workers == 1:
            return 0.0
        speed = cluster.nvlink_gb_per_s if workers <= cluster.gpus_per_node else cluster.network_gb_per_s
        return 2 * (workers - 1) / workers * self.num_bytes / (speed * 1e9) + self.buckets * 2 * math.log2(workers) * HOP_S


def commit_bytes(run: Run) -> float:
    """Of the state of stage 1: G, its average and D in float32, and Adam's two moments of G and D."""
    g, d = generator_work(run.network, run.resolution).parameters, discriminator_work(run.network, run.resolution).parameters
    return 4.0 * (4 * g + 3 * d)


def commit_seconds(run: Run, cluster: Cluster) -> float:
    """To serialise, hash and write a commit, beside training."""
    gigabytes = commit_bytes(run) / 1e9
    return gigabytes / (rates.COMMIT_GB_PER_S * cluster.core_speed) + gigabytes / cluster.upload_gb_per_s
