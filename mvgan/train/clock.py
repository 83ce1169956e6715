"""Moments on a device's own queue: on a GPU events, which nothing waits for until they are read."""

import time

import torch


Moment = float | torch.cuda.Event


def moment(device: torch.device) -> Moment:
    """When all that was asked of `device` so far is done; without a GPU that is now."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds(began: Moment, ended: Moment) -> float:
    """Seconds from one moment to a later one of the same device; waits for the later one."""
    if isinstance(began, float) and isinstance(ended, float):
        return ended - began
    assert isinstance(began, torch.cuda.Event) and isinstance(ended, torch.cuda.Event)
    ended.synchronize()
    return began.elapsed_time(ended) / 1000
