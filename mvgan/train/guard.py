"""Steps of optimizers that losses and gradients allow, and what is done about those that they do not."""

import logging
import time
from collections.abc import Iterable

import torch
from torch import Tensor

from mvgan.config import ANOTHER_NAME, Ended
from mvgan.storage.commit import Commit, Commits
from mvgan.train.exposed import EXPOSED
from mvgan.train.ranks import Ranks
from mvgan.train.state import UNITS


SKIPPED = "skipped_steps"
"""The metric: optimizer steps left out since the record before, over all phases."""

SECONDS = "_phase_s"
"""Ends the names of metrics that are seconds of a phase in a step in which it is due: its forward and backward passes, and on a CPU its
optimizer, which a GPU's queue works off in the next phase. What stage 3 renders for its discriminators is in none."""

LOWER = {
    "pairs": "lower --pairs.lr or --pairs.r1-gamma, or take --network.precision fp32",
    "video": "lower --video.lr or --video.gp-weight",
}
"""What makes a stage diverge less."""

LARGE = 1e30
"""Norm of gradients above which it is told no more exactly."""

logger = logging.getLogger(__name__)


class NonFinite(RuntimeError):
    """Losses, gradients or weights are NaN or infinite. Answered by starting the workers again from the newest commit."""


class Diverged(Ended):
    """Numbers ceased to be finite again after a rollback; no further try can mend it."""


class Guard:
    """Takes an optimizer's step only if the loss and all gradients are finite on every worker.

    Otherwise all workers leave out the same step, and with it whatever else the phase would have changed, so that weights,
    Adam's moments and running means stay clean. Steps left out are counted for each phase: R1 may fail whenever it is due
    while the others do well. The counts are part of no commit: they change no number, only when training gives up.
    """

    def __init__(self, name: str, ranks: Ranks, max_skipped: int) -> None:
        self.name, self.ranks, self.max_skipped = name, ranks, max_skipped
        self.in_a_row: dict[str, int] = {}
        self._skipped = 0
        self._norms: dict[str, Tensor] = {}
        self._seconds: dict[str, float] = {}

    def descend(self, phase: str, optimizer: torch.optim.Optimizer, losses: Iterable[Tensor], images: int) -> bool:
        """Take the optimizer's step along the gradient of the sum of `losses` and return True, or leave it out and return False.

        A loss is asked for when the backward pass of the one before is over, and what it takes counts as the time of the phase.

        Raises NonFinite, on all workers at once, when more than `max_skipped` steps of the phase were left out in a row.
        """
        began = time.perf_counter()
        try:
            return self._descend(phase, optimizer, losses, images)
        finally:  # the device was waited for after the backward passes, to see whether all is finite
            self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - began

    def _descend(self, phase: str, optimizer: torch.optim.Optimizer, losses: Iterable[Tensor], images: int) -> bool:
        optimizer.zero_grad(set_to_none=True)
        seen = []
        for loss in losses:
            loss.backward()
            self.ranks.exposed.backward_ended()
            seen.append(loss.detach())
        # DDP has averaged the gradients, so they are the same everywhere; the losses are this worker's own.
        gradients = _gradients(optimizer)
        if self.ranks.all(_finite([*seen, *gradients])):
            # Of gradients as large as floats go the square overflows; metrics and their sums stay numbers.
            norm = torch.stack(torch._foreach_norm(gradients)).norm().clamp_max(LARGE)
            self._norms[f"{_key(phase)}_grad_norm"] = norm
            optimizer.step()
            self.in_a_row[phase] = 0
            return True
        self._skip(phase, images)
        return False

    def _skip(self, phase: str, images: int) -> None:
        self._skipped += 1
        self.in_a_row[phase] = count = self.in_a_row.get(phase, 0) + 1
        what = f"{self.name}: loss or gradients of {phase} not finite after {images} {UNITS[self.name]}"
        if count > self.max_skipped:
            raise NonFinite(f"{what}, {count} times in a row")
        if self.ranks.rank == 0:
            logger.warning("%s: this step is left out (%d in a row, at most %d)", what, count, self.max_skipped)

    def take_measures(self, device: torch.device) -> dict[str, Tensor]:
        """Since the last call, as scalars to log: the norm of the gradient of each phase that took a step, the seconds of each phase,
        steps left out, and with several workers the exposed time of communication.
        """
        figures = {f"{_key(phase)}{SECONDS}": seconds for phase, seconds in self._seconds.items()} | {SKIPPED: float(self._skipped)}
        if self.ranks.world > 1:
            figures[EXPOSED] = self.ranks.exposed.take()
        measures = self._norms | {name: torch.tensor(figure, device=device) for name, figure in figures.items()}
        self._norms, self._seconds, self._skipped = {}, {}, 0
        return measures


def _key(phase: str) -> str:
    return phase.lower().replace(" ", "_")


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _finite(tensors: list[Tensor]) -> Tensor:
    """Whether all are finite, as a scalar; by the largest absolute value of each, which NaN passes through and nothing overflows."""
    return torch.stack(torch._foreach_norm(tensors, float("inf"))).isfinite().all()


def place_of(commits: Commits, commit: Commit | None) -> str:
    """Where training can go on, for people to read."""
    return (
        f"the commit at {commit.images} ({commits.store.uri}/commits/{commit.name}.json)" if commit else "the start, as there is no commit"
    )


class Rollbacks:
    """What the driver of a stage answers to NonFinite: once, for each commit, training goes on from there again.

    That mends a passing fault: a flipped bit, a faulty device. Randomness is stateless, so the same commit leads to the
    same samples, and a fault of the numbers themselves comes back; then only other settings help.
    """

    def __init__(self, commits: Commits, name: str) -> None:
        self.commits, self.name = commits, name
        self.answered: set[str] = set()

    def answer(self, error: NonFinite) -> None:
        """Return when the workers are to start again from the newest commit. Raises Diverged when they have, to no avail."""
        commit = self.commits.newest()
        place = place_of(self.commits, commit)
        if place in self.answered:
            raise Diverged(f"{error}, again after going on from {place}; {LOWER[self.name]}, {ANOTHER_NAME}") from None
        self.answered.add(place)
