"""The trials of a sweep that differ by their seed alone, taken together: a combination of values is judged by the mean over its seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvgan.sweep import Outcome


SEED = "seed"
"""The setting that is averaged over: no value of it is better than another."""


@dataclass(frozen=True)
class Combination:
    """One combination of all values but the seed."""

    values: Mapping[str, Any]
    """By column."""
    seeds: int
    """Of how many its trials are."""
    outcomes: Sequence[Outcome]
    """Those of its trials that have come to their end, best first."""

    def figure(self, name: str) -> tuple[float, float | None] | None:
        """The mean of a figure over the seeds, and its sample deviation; of one trial the figure, and its bootstrap error where it has one.

        None without any figure. Of several seeds one alone has no error: that of its measure is another quantity.
        """
        found = [value for each in self.outcomes if (value := getattr(each, name)) is not None]
        if not found:
            return None
        return over_seeds(found, self.outcomes[0].frechet_error if name == "frechet" and self.seeds == 1 else None)

    @property
    def distance(self) -> tuple[float, float]:
        """The Frechet distance that it is judged by, with its error, 0 where that is not known. It has ended trials."""
        found = self.figure("frechet")
        assert found is not None
        return found[0], found[1] or 0.0

    @property
    def over(self) -> str:
        """What its figures are taken over, as the end of a sentence; nothing where the seed does not vary."""
        if self.seeds == 1:
            return ""
        done = len(self.outcomes)
        if done == 1:
            return f", of one of {self.seeds} seeds"
        return f", mean and standard deviation over {done}{'' if done == self.seeds else f' of {self.seeds}'} seeds"


def combined(outcomes: Sequence[Outcome]) -> list[Combination]:
    """All combinations, in the order of the trials."""
    found: dict[tuple[Any, ...], list[Outcome]] = {}
    for each in outcomes:
        found.setdefault(tuple(_others(each).items()), []).append(each)
    return [Combination(_others(trials[0]), len(trials), _ended(trials)) for trials in found.values()]


def ranked(combinations: Sequence[Combination]) -> list[Combination]:
    """Those of which trials have ended, best first; before all others those of which the most have: who was stopped early was behind."""
    ended = [each for each in combinations if each.outcomes]
    return sorted(ended, key=lambda each: (-len(each.outcomes), each.distance))


def over_seeds(figures: Sequence[float], error: float | None) -> tuple[float, float | None]:
    """The mean of one figure or more, and their sample deviation, or of one alone its `error`."""
    return float(np.mean(figures)), float(np.std(figures, ddof=1)) if len(figures) > 1 else error


def of_seeds(done: int, seeds: int) -> str:
    """How many seeds a figure is of, as its end; nothing where the seed does not vary."""
    return f", {done} of {seeds} seeds" if seeds > 1 else ""


def with_error(figure: tuple[float, float | None] | None) -> str:
    """A figure for people: `1.37 ± 0.045`."""
    if figure is None:
        return ""
    value, error = figure
    return f"{value:.4g}" + ("" if error is None else f" ± {error:.2g}")


def _others(outcome: Outcome) -> dict[str, Any]:
    return {path: value for path, value in outcome.trial.values.items() if path != SEED}


def _ended(outcomes: Sequence[Outcome]) -> list[Outcome]:
    ended = [each for each in outcomes if each.status == "done" and each.frechet is not None]
    return sorted(ended, key=lambda each: each.frechet or 0.0)
