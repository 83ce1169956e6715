"""Frechet distances of features that were kept: read part by part, so that memory holds moments, however many the samples."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mvgan.evaluation.parts import Arrays, Told, kept
from mvgan.metrics.frechet import RESAMPLES, drawn, frechet_distance, resampled_distance
from mvgan.metrics.moments import PART, Factored, Moments
from mvgan.storage.uri import Store


DRAWS_TOGETHER = 5
"""Resamples of one task, which reads the features once for all of them and holds two factors [d, d] of each."""


@dataclass(frozen=True)
class Samples:
    """The samples of one repeat, as the parts whose features are kept.

    parts: key and number of samples of each, in order. arrays: names of their features. figures: what else is known of all of them.
    """

    parts: tuple[tuple[str, int], ...]
    arrays: tuple[str, ...]
    figures: Arrays

    @classmethod
    def of(cls, parts: Sequence[tuple[str, Told]]) -> "Samples":
        """Those of the parts with these keys."""
        arrays = parts[0][1].arrays if parts else ()
        return cls(tuple((key, told.count) for key, told in parts), arrays, join([told.figures for _, told in parts]))

    @property
    def count(self) -> int:
        """Number of samples."""
        return sum(count for _, count in self.parts)


ROWS = ("probabilities", "motion", "within")
"""Figures with a row a sample; the others are sums over samples."""


def join(parts: Sequence[Arrays]) -> Arrays:
    """The figures of all parts together, which are of one kind; none of none."""
    keys = parts[0].keys() if parts else ()
    return {key: np.concatenate([part[key] for part in parts]) if key in ROWS else sum(part[key] for part in parts) for key in keys}  # type: ignore[misc]


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
    """The distances of one task."""
    both = comparison.real, comparison.generated
    if not comparison.resamples:
        one, two = (functools.reduce(Moments.merge, map(Moments.of, _blocks(store, parts, comparison.array))) for parts in both)
        return [frechet_distance(one, two)]
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
    for key, _ in parts:
        held.append(torch.from_numpy(kept(store, key)[array]))
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
