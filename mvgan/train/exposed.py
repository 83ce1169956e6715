"""How long a step waits for gradients of other workers once its own are ready: communication that computing does not hide."""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from mvgan.train.clock import Moment, moment, seconds


EXPOSED = "exposed_comm_s"
"""The metric: seconds of a step that passed so, over all its phases, or in means over all workers on the way forward; those that wait for
slower workers are among them."""

SLOWEST, LAG, WORKERS = "slowest_worker", "slowest_lag_s", "workers"
"""The metrics: the worker that waits least for others, how many seconds of a step less than the median of the others, and of how many."""


def straggler(waits: Sequence[float], shards: Sequence[int]) -> dict[str, float]:
    """Which of several workers is behind, as metrics, by the seconds of a step that each waits for others: they wait for it.

    shards: how many logical shards each hosts. Those with more than others have more to do, and are left out; nothing is told of one alone.
    """
    told: dict[str, float] = {WORKERS: len(waits)}
    alike = [rank for rank, hosted in enumerate(shards) if hosted == min(shards)]
    if len(alike) > 1:
        slowest = min(alike, key=waits.__getitem__)
        told |= {SLOWEST: slowest, LAG: statistics.median(waits[rank] for rank in alike if rank != slowest) - waits[slowest]}
    return told


class Exposed:
    """Gathers the time from the last bucket of gradients of each backward pass to the end of their exchange, and that of `waiting`."""

    def __init__(self) -> None:
        self._began: tuple[Moment, torch.device] | None = None
        self._spans: list[tuple[Moment, Moment]] = []

    def watch(self, phase: nn.Module) -> nn.Module:
        """A phase whose backward averages gradients over the workers, and is timed."""
        parallel = DistributedDataParallel(phase, broadcast_buffers=False)
        parallel.register_comm_hook(None, self._hook)
        return parallel

    def _hook(self, state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
        if bucket.is_last():
            device = bucket.buffer().device
            self._began = moment(device), device
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]  # the group of all workers

    @contextmanager
    def waiting(self, device: torch.device) -> Iterator[None]:
        """An exchange on the way forward, whose result is waited for at once."""
        began = moment(device)
        yield
        self._spans.append((began, moment(device)))

    def backward_ended(self) -> None:
        """To be called when a backward pass has returned."""
        if self._began is not None:
            began, device = self._began
            self._spans.append((began, moment(device)))
        self._began = None

    def take(self) -> float:
        """Seconds since the last call; on a GPU waits for the passes before it."""
        spans, self._spans = self._spans, []
        return sum(seconds(began, ended) for began, ended in spans)
