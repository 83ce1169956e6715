"""How long a step waits for gradients of other workers once its own are ready: communication that computing does not hide."""

import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel


EXPOSED = "exposed_comm_s"
"""The metric: seconds of a step that passed so, over all its phases; those that wait for slower workers are among them."""


class Exposed:
    """Gathers, over the backward passes of a step, the time from the last bucket of gradients to the end of their exchange.

    On a GPU it is the time of its own queue, between two events, which are read once the step has waited for the device anyway.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._began: float | None = None
        self._event: torch.cuda.Event | None = None
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def watch(self, phase: nn.Module) -> nn.Module:
        """A phase whose backward averages gradients over the workers, and is timed."""
        parallel = DistributedDataParallel(phase, broadcast_buffers=False)
        parallel.register_comm_hook(None, self._hook)
        return parallel

    def _hook(self, state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
        if bucket.is_last():
            if bucket.buffer().is_cuda:
                self._event = _event()
            else:
                self._began = time.perf_counter()
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]  # the group of all workers

    def backward_ended(self) -> None:
        """To be called when a backward pass has returned."""
        if self._began is not None:
            self._seconds += time.perf_counter() - self._began
        if self._event is not None:
            self._pairs.append((self._event, _event()))
        self._began = self._event = None

    def take(self) -> float:
        """Seconds since the last call; on a GPU waits for the passes before it."""
        for began, ended in self._pairs:
            ended.synchronize()
            self._seconds += began.elapsed_time(ended) / 1000
        seconds, self._seconds, self._pairs = self._seconds, 0.0, []
        return seconds


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
