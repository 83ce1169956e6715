"""From Gram matrices to motion codes as the paper's authors released it, step by step: for parity, and to compare with.

It differs from the paper's text, and from `rpca` and `codes`, in what is written at each step. Its factorization can stop at full
rank after two iterations. The null space of the kept frame is then given one dimension, and all codes are one vector; the
released code goes on with that, here it is an InputError.
Source: the released code of MotionVideoGAN, whose factorization is that of LowRankGAN.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvgan.config import InputError


Matrix = NDArray[np.float64]

MAX_ITERATIONS = 10_000
TOLERANCE = 1e-7
"""Of |L + S - M| / |M| at which the released iteration stops. What it thresholds on the way may still be moving."""

MIN_NORM = 1e-3
"""A unit vector of which less is left by the projection counts as removed, and codes as dependent below this singular value."""

INSTEAD = "take --codes.method generalized or nullspace, whose factorization ends at a low rank"


@dataclass(frozen=True)
class Factorization:
    """What the released iteration ended with."""

    low_rank: Matrix
    """[d, d], as the sparse part."""
    sparse: Matrix
    rank: int
    """Numerical rank of the low-rank part."""
    iterations: int
    primal: float
    """|L + S - M| / |M| at the end."""

    @property
    def converged(self) -> bool:
        """Whether it stopped by its tolerance."""
        return self.primal <= TOLERANCE


def factorize(gram: Tensor, lam: float, max_iterations: int = MAX_ITERATIONS) -> Factorization:
    """The released robust PCA of `gram` [d, d]: a full singular value decomposition an iteration, float64.

    Its penalty is mu = d^2 / (4 max_j sum_i |M_ij|), the largest column sum where Candes et al. 2011 have the sum of all
    entries, so up to d times as large. Where all singular values are above 1 / mu, none vanishes and two iterations meet the
    tolerance, at full rank and whatever `lam` is.
    """
    m: Matrix = gram.detach().cpu().double().numpy()
    mu = m.size / (4 * np.abs(m).sum(0).max())
    norm = np.linalg.norm(m)
    low_rank, sparse, dual = np.zeros_like(m), np.zeros_like(m), np.zeros_like(m)
    iteration, primal = 0, float("inf")
    while iteration < max_iterations and primal > TOLERANCE:
        iteration += 1
        left, values, right = np.linalg.svd(m - sparse - dual / mu)
        low_rank = (left * np.maximum(values - 1 / mu, 0)) @ right
        rest = m - low_rank - dual / mu
        sparse = np.sign(rest) * np.maximum(np.abs(rest) - lam / mu, 0)
        miss = low_rank + sparse - m
        dual += mu * miss
        primal = float(np.linalg.norm(miss) / norm)
    return Factorization(low_rank, sparse, int(np.linalg.matrix_rank(low_rank)), iteration, primal)


def official_codes(edit: Factorization, keep: Factorization, num_codes: int) -> Tensor:
    """The first `num_codes` of the released codes [num_codes, w_dim]: unit vectors, neither orthogonal nor of a certain sign.

    The first r_a right singular vectors of the edited frame's low-rank part, in their order, each projected on those of the kept
    frame from max(1, r_b) on, or on the last one where r_b is w_dim, and normalised.
    Raises InputError when there are fewer, when little but rounding is left of one, or when they are not independent.
    """
    w_dim = len(edit.low_rank)
    if edit.rank < num_codes:
        raise InputError(
            f"the released factorization of the edited frame ended at rank {edit.rank}, fewer than the {num_codes} codes asked for;"
            f" lower --num-codes, or {INSTEAD}"
        )
    first = min(max(1, keep.rank), w_dim - 1)
    null_space = np.linalg.svd(keep.low_rank)[2][first:]
    if len(null_space) < num_codes:
        span = "are one vector" if len(null_space) == 1 else f"span {len(null_space)} dimensions only"
        raise InputError(
            f"the released factorization of the kept frame stopped after {keep.iterations} iterations at rank {keep.rank} of {w_dim}, so"
            f" that its {num_codes} codes {span}; {INSTEAD}"
        )
    codes = np.linalg.svd(edit.low_rank)[2][:num_codes] @ null_space.T @ null_space
    norms = np.linalg.norm(codes, axis=1)
    if norms.min() < MIN_NORM:
        raise InputError(
            f"the projection of the released code leaves nothing of code {int(norms.argmin())} (norm {norms.min():.1e});"
            f" lower --num-codes, or {INSTEAD}"
        )
    codes /= norms[:, None]
    if np.linalg.svd(codes, compute_uv=False)[-1] < MIN_NORM:
        raise InputError(f"the {num_codes} codes of the released code are not independent; lower --num-codes, or {INSTEAD}")
    return torch.from_numpy(codes)


def describe(edit: Factorization, keep: Factorization) -> dict[str, Any]:
    """What to write about the codes of one direction."""
    return {
        "rank_edit": edit.rank,
        "rank_keep": keep.rank,
        "iterations": [edit.iterations, keep.iterations],
        "converged": edit.converged and keep.converged,
    }
