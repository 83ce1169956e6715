"""Steps of optimizers that losses and gradients allow, and what is done about those that they do not."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mvgan.config import ANOTHER_NAME, Ended
from mvgan.storage.commit import Commit, Commits
from mvgan.train.adam import Adam
from mvgan.train.clock import Moment, moment, seconds
from mvgan.train.exposed import EXPOSED
from mvgan.train.ranks import Ranks
from mvgan.train.state import UNITS


SKIPPED = "skipped_steps"
"""The metric: optimizer steps left out since the record before, over all phases."""

SECONDS = "_phase_s"
"""Ends the names of metrics that are seconds of a phase in a step in which it is due: its forward and backward passes and its optimizer.
What stage 3 renders for its discriminators is in none."""

LOWER = {
    "pairs": "lower --pairs.lr or --pairs.r1-gamma, or take --network.precision fp32",
    "video": "lower --video.lr or --video.gp-weight",
}
"""What makes a stage diverge less."""

HUGE = 1e18
"""A gradient that is as large counts as not finite: the square of a few such ones overflows, and would stay in Adam's moments for good."""

LARGE = 1e19
"""Norm of gradients above which it is told no more exactly, as its square overflows."""

logger = logging.getLogger(__name__)


class NonFinite(RuntimeError):
    """Losses, gradients or weights are NaN or infinite. Answered by starting the workers again from the newest commit."""


class Diverged(Ended):
    """Numbers ceased to be finite again after a rollback; no further try can mend it."""


@dataclass
class _LeftOut:
    """Steps of a phase that were left out, counted on the device."""

    in_a_row: Tensor
    """Up to now."""
    longest: Tensor
    """The longest row since the last look."""
    total: Tensor
    """Since the last look."""

    def add(self, taken: Tensor) -> None:
        """Count a step."""
        self.in_a_row = torch.where(taken, 0, self.in_a_row + 1)
        self.longest = torch.maximum(self.longest, self.in_a_row)
        self.total = self.total + ~taken

    def look(self) -> tuple[int, int]:
        """The longest row and the number of steps since the last look; waits for the device."""
        longest, total = torch.stack([self.longest, self.total]).tolist()
        self.longest, self.total = self.in_a_row, torch.zeros_like(self.total)
        return longest, total


class Guard:
    """Takes an optimizer's step only if the loss and all gradients are finite on every worker.

    Otherwise all workers leave out the same step, and with it whatever else the phase would have changed, so that weights,
    Adam's moments and running means stay clean. The device decides that by itself: nothing waits for it until `look`, at each record of
    metrics. Steps left out are counted for each phase: R1 may fail whenever it is due while the others do well. The counts are part of
    no commit: they change no number, only when training gives up.
    """

    def __init__(self, name: str, ranks: Ranks, max_skipped: int, device: torch.device) -> None:
        self.name, self.ranks, self.max_skipped, self.device = name, ranks, max_skipped, device
        self._left_out: dict[str, _LeftOut] = {}
        self._skipped = torch.zeros([], device=device)
        self._norms: dict[str, Tensor] = {}
        self._steps = 0
        self._spans: dict[str, list[tuple[int, Moment, Moment]]] = {}

    def descend(self, phase: str, optimizer: Adam, losses: Iterable[Tensor]) -> Tensor:
        """Take the optimizer's step along the gradient of the sum of `losses`, or leave it out; whether it was taken, a boolean scalar.

        A loss is asked for when the backward pass of the one before is over, and what it takes counts as the time of the phase.
        """
        began = moment(self.device)
        optimizer.zero_grad(set_to_none=True)
        seen = []
        for loss in losses:
            loss.backward()
            self.ranks.exposed.backward_ended()
            seen.append(loss.detach())
        # DDP has averaged the gradients, so they are the same everywhere; the losses are this worker's own.
        gradients = _gradients(optimizer)
        taken = self.ranks.all(_finite(seen, gradients))
        optimizer.found_inf = (~taken).float()
        optimizer.step()
        norm = torch.stack(torch._foreach_norm(gradients)).norm().clamp_max(LARGE)
        self._norms[f"{_key(phase)}_grad_norm"] = told(norm, taken)
        self._count(phase, taken)
        self._spans.setdefault(phase, []).append((self._steps, began, moment(self.device)))
        return taken

    def _count(self, phase: str, taken: Tensor) -> None:
        if phase not in self._left_out:
            self._left_out[phase] = _LeftOut(*torch.zeros(3, dtype=torch.long, device=self.device))
        self._left_out[phase].add(taken)
        self._skipped = self._skipped + ~taken

    def measures(self) -> dict[str, Tensor]:
        """Of the step that ends with this call, as scalars to log: the norm of each phase's gradient, and steps left out."""
        found = {**self._norms, SKIPPED: self._skipped}
        self._norms, self._skipped = {}, torch.zeros_like(self._skipped)
        self._steps += 1
        return found

    def look(self, images: int) -> dict[str, float]:
        """Seconds since the last call, for a step: of each phase, in steps in which it is due, and of exposed communication, with several
        workers. Waits for the device.

        Raises NonFinite, on all workers at once, when more than `max_skipped` steps of a phase were left out in a row.
        """
        for phase, left_out in self._left_out.items():
            longest, total = left_out.look()
            what = f"{self.name}: loss or gradients of {phase} not finite up to {images} {UNITS[self.name]}"
            if longest > self.max_skipped:
                raise NonFinite(f"{what}, {longest} times in a row")
            if total and self.ranks.rank == 0:
                logger.warning("%s: %d of its steps were left out (%d in a row, at most %d)", what, total, longest, self.max_skipped)
        return self._times()

    def _times(self) -> dict[str, float]:
        found = {}
        for phase, spans in self._spans.items():
            due = {step for step, _, _ in spans}
            found[f"{_key(phase)}{SECONDS}"] = sum(seconds(began, ended) for _, began, ended in spans) / len(due)
        if self.ranks.world > 1:
            found[EXPOSED] = self.ranks.exposed.take() / max(self._steps, 1)
        self._spans, self._steps = {}, 0
        return found


def told(value: Tensor, taken: Tensor) -> Tensor:
    """The scalar `value` of a phase to log: NaN, which averages leave out, where its step was not taken."""
    return torch.where(taken, value.detach(), torch.nan)


def _key(phase: str) -> str:
    return phase.lower().replace(" ", "_")


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _finite(losses: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """Whether all losses are finite and all gradients below HUGE, as a scalar; by the largest of each, which NaN passes through."""
    largest = torch.stack(torch._foreach_norm(gradients, float("inf")))
    return torch.stack(losses).isfinite().all() & (largest < HUGE).all()


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
