"""Frechet distances of features that were kept: read part by part, so that memory holds moments, however many the samples."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mvgan.config import InputError
from mvgan.evaluation.kept import Arrays, Lost, kept
from mvgan.evaluation.parts import Told
from mvgan.metrics.frechet import RESAMPLES, drawn, resampled_distance, signed_distance
from mvgan.metrics.moments import PART, Factored, Moments
from mvgan.storage.uri import Store


DRAWS_TOGETHER = 5
"""Resamples of one task, which reads the features once for all of them and holds two factors [d, d] of each."""


@dataclass
class Samples:
    """The samples of one repeat, as the parts whose features are kept.

    parts: key and number of samples of each, in order. arrays: names of their features. figures: what else is known of all of them.
    """

    parts: tuple[tuple[str, int], ...] = ()
    arrays: tuple[str, ...] = ()
    figures: Arrays = field(default_factory=dict)

    def add(self, key: str, told: Told) -> None:
        """Take in one more part, of the same kind as those before."""
        self.parts, self.arrays = (*self.parts, (key, told.count)), told.arrays
        self.figures = (
            {
                name: np.concatenate([self.figures[name], value]) if name in ROWS else self.figures[name] + value
                for name, value in told.figures.items()
            }
            if self.figures
            else dict(told.figures)
        )

    @property
    def count(self) -> int:
        """Number of samples."""
        return sum(count for _, count in self.parts)


ROWS = ("probabilities", "motion", "within")
"""Figures with a row a sample; the others are sums over samples."""


@dataclass(frozen=True)
class Comparison:
    """One task: the distance of two sets of samples in the features `array`; with `resamples`, instead those of these resamples."""

    repeat: int
    array: str
    real: tuple[tuple[str, int], ...]
    generated: tuple[tuple[str, int], ...]
    resamples: tuple[int, ...] = ()


@dataclass(frozen=True)
class Distance:
    """That of the samples, and those of resamples."""

    value: float
    resampled: tuple[float, ...] = ()


def comparisons(real: Sequence[Samples], generated: Sequence[Samples]) -> list[Comparison]:
    """All that a result needs: the error of a single repeat is that over resamples."""
    draws: list[tuple[int, ...]] = [()]
    if len(generated) == 1:
        draws += [tuple(range(first, min(first + DRAWS_TOGETHER, RESAMPLES))) for first in range(0, RESAMPLES, DRAWS_TOGETHER)]
    return [
        Comparison(repeat, array, theirs.parts, ours.parts, some)
        for repeat, (theirs, ours) in enumerate(zip(real, generated, strict=True))
        for array in ours.arrays
        for some in draws
    ]


def compared(store: Store, comparison: Comparison) -> list[float]:
    """The distances of one task; of the samples themselves as it comes out, by rounding perhaps below zero.

    Raises InputError when what was kept of them has gone meanwhile.
    """
    both = comparison.real, comparison.generated
    if not comparison.resamples:
        one, two = (functools.reduce(Moments.merge, map(Moments.of, _blocks(store, parts, comparison.array))) for parts in both)
        return [signed_distance(one, two)]
    sides = [_resampled(store, parts, comparison, side) for side, parts in enumerate(both)]
    return [resampled_distance(*factors) for factors in zip(*sides, strict=True)]


def _resampled(store: Store, parts: tuple[tuple[str, int], ...], comparison: Comparison, side: int) -> list[Factored]:
    counts = [drawn(sum(count for _, count in parts), 0, number, side) for number in comparison.resamples]
    factors: list[Factored | None] = [None] * len(counts)
    start = 0
    for block in _blocks(store, parts, comparison.array):
        for index, (factor, chosen) in enumerate(zip(factors, counts, strict=True)):
            some = chosen[start : start + len(block)]
            if some.any():
                here = Factored.of(block, some)
                factors[index] = factor.merge(here) if factor else here
        start += len(block)
    return [factor for factor in factors if factor]


def _blocks(store: Store, parts: Sequence[tuple[str, int]], array: str) -> Iterator[Tensor]:
    """The features of all parts, in blocks of PART samples."""
    held: list[Tensor] = []
    for key, count in parts:
        try:
            rows = kept(store, key, (array,))[array]
        except Lost as error:
            raise InputError(f"{error}: removed or damaged while it was evaluated; evaluate again") from None
        assert len(rows) == count
        held.append(torch.from_numpy(rows))
        while sum(map(len, held)) >= PART:
            block = torch.cat(held)
            held = [block[PART:]]
            yield block[:PART]
    if sum(map(len, held)):
        yield torch.cat(held)


def joined(wanted: Sequence[Comparison], values: Sequence[list[float]]) -> list[dict[str, Distance]]:
    """The distances of each repeat by the features they are of."""
    found: dict[tuple[int, str], Distance] = {}
    for comparison, some in zip(wanted, values, strict=True):
        place = comparison.repeat, comparison.array
        found[place] = Distance(found[place].value, (*found[place].resampled, *some)) if comparison.resamples else Distance(some[0])
    return [
        {array: distance for (repeat, array), distance in found.items() if repeat == number}
        for number in range(1 + max((repeat for repeat, _ in found), default=-1))
    ]
