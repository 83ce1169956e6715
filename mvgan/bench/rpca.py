"""Benchmark `rpca`: the low-rank factorization of a Gram, against that of the authors' released code, to the same objective.

The released code has a full singular value decomposition in each iteration, and factorizes each of the two Grams of a latent
twice, which counts as two runs; once by mvgan stands for both. The spectrum is one on which it does not end after two iterations at
full rank; it is then timed to its own end, and mvgan's solver to the loosest tolerance at which the objective |L|_* + lambda |M - L|_1
is the one that the released code ends with, or less.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mvgan.bench.harness import Benchmark, Ratio, Side
from mvgan.config import Codes
from mvgan.motion.official import factorize
from mvgan.motion.rpca import robust_pca


DIM = 512
SPECTRUM, POWER = "k^-2", -2.0
RUNS_A_GRAM = 2
"""The released code factorizes both Grams for the backward codes, and both again for the forward ones."""
MIN_ITERATIONS = 50
"""Fewer of the released code would be one of its early ends."""
TOLERANCES = tuple(10 ** (-half / 2) for half in range(4, 15))
"""From 1e-2 to 1e-7."""
MARGIN = 1e-6
"""By which an objective may be above the other, relative, and count as the same."""
MOST = 10_000
LAM = Codes().lam


def benchmark(dim: int = DIM, lam: float = LAM) -> Benchmark:
    """Both on one core, on the same two Grams. Raises RuntimeError when they do not fit: an early end, or an objective out of reach."""
    print("rpca: first what both sides end with", flush=True)
    gram = grams(dim)[0]
    theirs = factorize(gram, lam)
    if theirs.iterations < MIN_ITERATIONS:
        raise RuntimeError(f"the released factorization ended after {theirs.iterations} iterations at rank {theirs.rank}")
    least = objective(torch.from_numpy(theirs.low_rank), gram, lam)
    tolerance = reaching(gram, least, lam)
    ours = robust_pca(gram, lam, MOST, tolerance)
    about: dict[str, Any] = {
        "dim": dim,
        "spectrum": SPECTRUM,
        "lam": lam,
        "tolerance": tolerance,
        "iterations": {"mvgan": ours.iterations, "released": theirs.iterations},
        "objective": {"mvgan": objective(ours.low_rank, gram, lam), "released": least},
        "rank": {"mvgan": ours.rank, "released": theirs.rank},
    }
    sides = Side("mvgan", factorizations, (dim, lam, tolerance)), Side("released", released, (dim, lam))
    return Benchmark("rpca", "runs", sides, (Ratio("mvgan", "released"),), about)


def grams(dim: int) -> tuple[Tensor, Tensor]:
    """Two Grams [dim, dim] of SPECTRUM, seeded."""
    found = []
    for seed in (0, 1):
        q = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q
        gram = (q * torch.arange(1, dim + 1, dtype=torch.float64) ** POWER) @ q.mT
        found.append((gram + gram.mT) / 2)
    return found[0], found[1]


def objective(low_rank: Tensor, gram: Tensor, lam: float) -> float:
    """|L|_* + lam |M - L|_1: with what is left of M as the sparse part, so that no solver gains by missing L + S = M."""
    return float(torch.linalg.matrix_norm(low_rank, "nuc") + lam * (gram - low_rank).abs().sum())


def reaching(gram: Tensor, least: float, lam: float) -> float:
    """The first of TOLERANCES at which mvgan's solver has an objective of at most `least`, but for MARGIN."""
    for tolerance in TOLERANCES:
        if objective(robust_pca(gram, lam, MOST, tolerance).low_rank, gram, lam) <= least * (1 + MARGIN):
            return tolerance
    raise RuntimeError(f"no tolerance down to {TOLERANCES[-1]:g} gives an objective of {least}")


def factorizations(dim: int, lam: float, tolerance: float) -> Iterator[int]:
    """A Gram after another; each stands for the runs that the released code makes of it."""
    torch.set_num_threads(1)
    found = grams(dim)
    yield 0
    for gram in itertools.cycle(found):
        robust_pca(gram, lam, MOST, tolerance)
        yield RUNS_A_GRAM


def released(dim: int, lam: float) -> Iterator[int]:
    """A run of the released factorization after another."""
    torch.set_num_threads(1)
    found = grams(dim)
    yield 0
    for gram in itertools.cycle(found):
        factorize(gram, lam)
        yield 1
