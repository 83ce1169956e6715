"""Benchmark `frechet`: the Frechet distance against the matrix root of scipy, at the 2,048 dimensions of FID."""

from collections.abc import Iterator

import numpy as np
import scipy.linalg
import torch

from mvgan.bench.harness import Benchmark, Ratio, Side
from mvgan.metrics.frechet import frechet_distance
from mvgan.metrics.moments import Moments


DIM = 2048


def benchmark(dim: int = DIM) -> Benchmark:
    """Both on one core, on the same moments; `relative_difference` is that of the two distances."""
    ours, theirs = distance(dim), distance_by_root(dim)
    sides = Side("mvgan", distances, (dim,)), Side("scipy sqrtm", distances_by_root, (dim,))
    about = {"dim": dim, "distance": ours, "relative_difference": abs(ours - theirs) / theirs}
    return Benchmark("frechet", "distances", sides, (Ratio("mvgan", "scipy sqrtm"),), about)


def moments(dim: int) -> tuple[Moments, Moments]:
    """Of twice as many seeded vectors as dimensions. Both sets vary most along the same directions, a hundred times more than
    along the least, as sets of alike pictures do."""
    scales = np.geomspace(1, 1e-2, dim)
    rows = [np.random.default_rng(seed).standard_normal((2 * dim, dim)) for seed in (0, 1)]
    a, b = (Moments.of(torch.from_numpy(x * scales * (1 + 0.2 * other) + 0.1 * other)) for other, x in enumerate(rows))
    return a, b


def distance(dim: int) -> float:
    """By mvgan."""
    return frechet_distance(*moments(dim))


def distance_by_root(dim: int) -> float:
    """By scipy, as FID is commonly computed."""
    return _by_root(*moments(dim))


def distances(dim: int) -> Iterator[int]:
    """One distance after another."""
    a, b = moments(dim)
    while True:
        frechet_distance(a, b)
        yield 1


def distances_by_root(dim: int) -> Iterator[int]:
    """The same by scipy."""
    a, b = moments(dim)
    while True:
        _by_root(a, b)
        yield 1


def _by_root(a: Moments, b: Moments) -> float:
    first, second = a.covariance.numpy(), b.covariance.numpy()
    root = scipy.linalg.sqrtm(first @ second).real
    return float((a.mean - b.mean).square().sum() + np.trace(first + second - 2 * root))
