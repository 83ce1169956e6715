"""Low-rank factorization of a Gram matrix (section III.B, between eq. 5 and 6), by ADMM."""

from dataclasses import dataclass

import torch
from torch import Tensor


OVER_RELAXATION = 1.6
"""Weight of the new low-rank part in an update, between 1 and 2 (Boyd et al. 2011, section 3.4.3)."""

PENALTY = 1.5
"""mu over its canonical value. On spectra k^-1 and k^-1.5 at d = 64 to 256 this and the over-relaxation reach 1e-7 in 140
to 860 iterations; balancing the residuals by changing mu on the way took longer, and often did not end in 1000."""


@dataclass(frozen=True)
class LowRank:
    """M = low_rank + sparse, both [d, d] and symmetric, float64 on the CPU."""

    low_rank: Tensor
    sparse: Tensor
    eigenvalues: Tensor
    """Of the low-rank part, [rank], largest magnitude first."""
    eigenvectors: Tensor
    """[d, rank], a column each."""
    rank: int
    iterations: int
    primal: float
    """|L + S - M| / |M| at the end."""
    dual: float
    """mu |S - S of the iteration before| / |Y| at the end."""
    converged: bool
    """Whether both residuals fell below the tolerance."""


def robust_pca(matrix: Tensor, lam: float, max_iterations: int, tol: float = 1e-7) -> LowRank:
    """min |L|_* + lam |S|_1 such that L + S = `matrix` [d, d], a symmetric matrix (Candes et al. 2011, eq. 1.1).

    ADMM with over-relaxation and a fixed penalty near mu = d^2 / (4 sum |M|), the entrywise norm. (With the largest column sum
    in its place, mu is up to d times as large: on a slowly falling spectrum nothing is then thresholded, and the
    iteration ends at once at full rank.) One symmetric eigendecomposition an iteration. The result scales with the
    matrix: robust_pca(c M) is c robust_pca(M). Whether it stopped by tolerance is said in `converged`.
    Raises ValueError for a matrix that is zero, not finite or not symmetric.
    """
    m = matrix.detach().cpu().double()
    _check(m)
    scale = m.abs().mean()
    m = m / scale
    # sum |M| is now d^2, so the canonical mu is 1/4.
    mu, norm = PENALTY / 4, m.norm()
    sparse, dual_variable = torch.zeros_like(m), torch.zeros_like(m)
    iteration, primal, dual = 0, 1.0, 1.0
    values, vectors = torch.zeros(0, dtype=m.dtype), torch.zeros(len(m), 0, dtype=m.dtype)
    low_rank = torch.zeros_like(m)
    while iteration < max_iterations and max(primal, dual) >= tol:
        iteration += 1
        values, vectors = _threshold_spectrum(m - sparse + dual_variable / mu, 1 / mu)
        low_rank = (vectors * values) @ vectors.mT
        relaxed = OVER_RELAXATION * low_rank + (1 - OVER_RELAXATION) * (m - sparse)
        before, sparse = sparse, _shrink(m - relaxed + dual_variable / mu, lam / mu)
        dual_variable += mu * (m - relaxed - sparse)
        primal = float((m - low_rank - sparse).norm() / norm)
        dual = float(mu * (sparse - before).norm() / dual_variable.norm().clamp_min(torch.finfo(m.dtype).tiny))
    return LowRank(low_rank * scale, sparse * scale, values * scale, vectors, len(values), iteration, primal, dual, max(primal, dual) < tol)


def rank_by_energy(eigenvalues: Tensor, energy: float, cap: int | None = None) -> int:
    """The fewest of `eigenvalues` (in falling magnitude) that hold the share `energy` of their sum, at most `cap`."""
    if not 0 < energy <= 1:
        raise ValueError(f"energy {energy} is not in (0, 1]")
    sums = eigenvalues.abs().cumsum(0)
    rank = int((sums < energy * (1 - 1e-12) * sums[-1:]).sum()) + 1 if len(sums) and sums[-1] > 0 else 0
    return min(rank, len(eigenvalues), len(eigenvalues) if cap is None else cap)


def _check(m: Tensor) -> None:
    if m.ndim != 2 or m.shape[0] != m.shape[1] or not m.isfinite().all() or not m.any():
        raise ValueError(f"expected a finite square matrix other than zero, got {list(m.shape)}")
    if not torch.allclose(m, m.mT, rtol=0, atol=1e-9 * float(m.abs().max())):
        raise ValueError("expected a symmetric matrix")


def _threshold_spectrum(m: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Non-zero eigenvalues after soft thresholding [r], largest magnitude first, and their eigenvectors [d, r]."""
    values, vectors = torch.linalg.eigh(m)
    values = _shrink(values, threshold)
    order = values.abs().argsort(descending=True, stable=True)[: int(values.count_nonzero())]
    return values[order], vectors[:, order]


def _shrink(x: Tensor, threshold: float) -> Tensor:
    """Soft thresholding, entry by entry."""
    return x.sign() * (x.abs() - threshold).clamp_min(0)
