"""When the memory of a GPU does not hold a step: how many samples at once do fit, found by trying."""

import dataclasses
import gc
import math
from collections.abc import Callable

import torch

from mvgan.config import ANOTHER_NAME, InputError, Run
from mvgan.train.ranks import Ranks
from mvgan.train.stage import Stage
from mvgan.train.state import UNITS, Progress


PHASES = 2
"""Phases of a network that DDP keeps buckets for: at most a main one and a penalty."""

Build = Callable[[Run, Ranks], Stage]
"""A fresh stage with these settings."""


def too_large(run: Run, name: str, ranks: Ranks, build: Build, device: torch.device, words: str) -> InputError | None:
    """What to say of a step that the memory of `device` does not hold, `words` being what it said; None where a step does fit.

    Nothing of the step that failed may be held any more.
    """
    accumulate = run.pairs.accumulate if name == "pairs" else 1
    shards = fitting = math.ceil(len(ranks.hosted) / accumulate)
    while fitting and not _fits(run, name, Ranks(fitting, ranks.group), build, device, spare=ranks.world > 1):
        fitting //= 2
    if fitting == shards:
        return None
    at_once = f"{name}: out of GPU memory with {shards * ranks.group} {UNITS[name]} at once on a worker ({words.split('. See ')[0]})"
    other = "--network.channel-base" if name == "pairs" else "--video.d-channels, --video.frames-at-once (of a few frames)"
    smaller = f"a smaller --{name}.group, {other} or --resolution"
    if not fitting:
        return InputError(f"{at_once}, and not even a shard of {ranks.group} fits; give {smaller}, {ANOTHER_NAME}")
    ways = [f"--{name}.batch {fitting * ranks.group * ranks.world}" + (" with --pairs.accumulate 1" if accumulate > 1 else "")]
    parts = math.ceil(len(ranks.hosted) / fitting)
    if name == "pairs" and parts <= ranks.num_shards // ranks.world:
        ways.insert(0, f"--pairs.accumulate {parts}")
    more = ", or more --workers" if ranks.world * fitting < ranks.num_shards else ""
    return InputError(f"{at_once}; {fitting * ranks.group} fit: give {' or '.join(ways)}, {ANOTHER_NAME}{more}")


def _fits(run: Run, name: str, ranks: Ranks, build: Build, device: torch.device, *, spare: bool) -> bool:
    """Whether two steps, in which all phases are due, fit; `spare`: beside copies of the gradients, as DDP has one for each phase."""
    # What a backward pass that failed has left in its queue holds tensors until the next one.
    torch.ones((), device=device, requires_grad=True).backward()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        _step(run, name, ranks, build, device, spare=spare)
    except torch.OutOfMemoryError:
        return False
    return True


def _step(run: Run, name: str, ranks: Ranks, build: Build, device: torch.device, *, spare: bool) -> None:
    changed = {"batch": ranks.batch} | ({"accumulate": 1} if name == "pairs" else {})
    run = dataclasses.replace(run, **{name: dataclasses.replace(getattr(run, name), **changed)})
    stage = build(run, ranks)
    held = [torch.empty_like(value) for _ in range(PHASES) for value in _weights(stage)] if spare else []
    frames = run.network.frames if name == "pairs" else run.video.num_frames
    batch = torch.zeros(ranks.batch, frames, 3, run.resolution, run.resolution, dtype=torch.uint8, device=device)
    for _ in range(2):  # the second one beside the state of all optimizers
        stage.step(batch, Progress())
    del held


def _weights(stage: Stage) -> list[torch.Tensor]:
    parts = [part for value in vars(stage).values() for part in (value.values() if isinstance(value, dict) else [value])]
    nets = {id(part): part for part in parts if isinstance(part, torch.nn.Module)}.values()
    return list({id(p): p for net in nets for p in net.parameters() if p.requires_grad}.values())
