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


Build = Callable[[Run, Ranks], Stage]
"""A fresh stage with these settings."""


def too_large(run: Run, name: str, ranks: Ranks, build: Build, device: torch.device, words: str) -> InputError:
    """What to say, in place of `words`, of a step that the memory of `device` does not hold; nothing of it may be held any more."""
    config = run.pairs if name == "pairs" else run.video
    parts = run.pairs.accumulate if name == "pairs" else 1
    shards = math.ceil(len(ranks.hosted) / parts)
    fitting = shards // 2
    while fitting and not _fits(run, name, Ranks(fitting, ranks.group), build, device, spare=ranks.world > 1):
        fitting //= 2
    at_once = f"{name}: out of GPU memory with {shards * ranks.group} {UNITS[name]} at once on a worker ({words.split('. See ')[0]})"
    if not fitting:
        return InputError(
            f"{at_once}, and not even a shard of {ranks.group} fits; give --{name}.group {max(1, config.group // 2)}, "
            f"a smaller {'--network.channel-base' if name == 'pairs' else '--video.d-channels'} or --resolution, {ANOTHER_NAME}"
        )
    accumulate = f"--pairs.accumulate {math.ceil(len(ranks.hosted) / fitting)}, or " if name == "pairs" else ""
    batch = f"--{name}.batch {fitting * ranks.group * ranks.world}"
    return InputError(f"{at_once}; {fitting * ranks.group} fit: give {accumulate}{batch}, {ANOTHER_NAME}, or more --workers")


def _fits(run: Run, name: str, ranks: Ranks, build: Build, device: torch.device, *, spare: bool) -> bool:
    """Whether a first step, in which all phases are due, fits; `spare`: beside a second copy of the gradients, as DDP has one."""
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
    held = [torch.empty_like(value) for value in _weights(stage)] if spare else []
    frames = run.network.frames if name == "pairs" else run.video.num_frames
    batch = torch.zeros(ranks.batch, frames, 3, run.resolution, run.resolution, dtype=torch.uint8, device=device)
    stage.step(batch, Progress())
    del held


def _weights(stage: Stage) -> list[torch.Tensor]:
    parts = [part for value in vars(stage).values() for part in (value.values() if isinstance(value, dict) else [value])]
    nets = {id(part): part for part in parts if isinstance(part, torch.nn.Module)}.values()
    return [p for net in nets for p in net.parameters() if p.requires_grad]
