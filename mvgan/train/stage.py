"""The only training loop, for both stages, in one process, in a worker of Ray Train or in a trial."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mvgan.train.state import Progress


DATA_WAIT = "data_wait_share"
"""The metric: share of the time of a step that passed until its batch was there."""


class Stage(Protocol):
    """What the loop needs of a stage."""

    def step(self, batch: Tensor, progress: Progress) -> dict[str, Tensor]:
        """Train on one batch; returns scalars to log, which may be NaN where there is nothing to tell. Nothing waits for the device."""
        ...

    def look(self, images: int) -> dict[str, float]:
        """At a record, after so many images: times that a step takes, in seconds. Raises NonFinite when too many steps were left out."""
        ...

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Plan:
    """How long a stage trains and when its hooks are due, in images (clips in stage 3)."""

    total: int
    batch: int
    tick: int
    commit: int
    evaluations: int = 0

    @property
    def end(self) -> int:
        """Images seen when the run ends: the last step may overshoot `total`."""
        return -(-self.total // self.batch) * self.batch

    def due(self, progress: Progress, every: int) -> bool:
        """Whether a multiple of `every` was crossed by the last step, or the run has ended."""
        return progress.images >= self.end or progress.images // every > (progress.images - self.batch) // every

    def evaluation_due(self, progress: Progress) -> bool:
        """True at the start, `evaluations` times in between at equal distances, the end included."""
        if not self.evaluations:
            return False
        return progress.images == 0 or self.due(progress, max(self.batch, self.total // self.evaluations))

    def commit_due(self, progress: Progress) -> bool:
        """At each multiple of `commit`, after each evaluation, at the end."""
        return self.due(progress, self.commit) or self.evaluation_due(progress)


class Hook(Protocol):
    """What happens beside training: logs, samples, measures, commits."""

    def start(self, stage: Stage, progress: Progress) -> None:
        """Before the first step of this process."""
        ...

    def after_step(self, stage: Stage, progress: Progress, stats: dict[str, Tensor]) -> None:
        """After every step, on every worker."""
        ...


def fit(stage: Stage, batches: Iterator[Tensor], progress: Progress, plan: Plan, hooks: Sequence[Hook]) -> Progress:
    """Train `stage` from `progress` to the end of `plan`; returns the progress at the end.

    batches must start at the sample after `progress`. Time counts on from earlier processes of the run.
    Raises RuntimeError when the batches end before the plan does.
    """
    started = time.monotonic() - progress.elapsed_s
    for hook in hooks:
        hook.start(stage, progress)
    while progress.images < plan.end:
        asked = time.monotonic()
        batch = next(batches, None)
        if batch is None:
            raise RuntimeError(f"the data ended after {progress.images} of {plan.end} images")
        given = time.monotonic()
        stats = stage.step(batch, progress)
        # A GPU takes at most a thousand kernels ahead, less than a step has, so a step takes as long to ask for as to compute.
        share = (given - asked) / max(time.monotonic() - asked, 1e-9)
        if stats:
            stats = {**stats, DATA_WAIT: torch.full([], share, device=next(iter(stats.values())).device)}
        progress = dataclasses.replace(progress, images=progress.images + plan.batch, elapsed_s=time.monotonic() - started)
        for hook in hooks:
            hook.after_step(stage, progress, stats)
    return progress
