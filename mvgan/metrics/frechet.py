"""The Frechet distance between two sets of features, and its bootstrap error."""

import torch
from torch import Tensor

from mvgan.metrics.moments import Moments


ACCURACY = 1e-7
"""Most that the faster way may lose of tr (A B)^(1/2), by a bound that rounding hardly ever reaches; else the other is taken."""

POWER_STEPS = 20
"""Steps of the power iteration by which norms are estimated, to some percent."""


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of the covariances A and B (Heusel et al. 2017, eq. 6)."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and {len(b.mean)} dimensions cannot be compared")
    first, second = a.covariance, b.covariance
    cross = _root_trace_of_full_rank(first, second) if min(a.n, b.n) > len(a.mean) else None
    if cross is None:
        cross = _root_trace(first, second)
    return float(_distances(a.mean, first, b.mean, second, cross))


def frechet_error(a: Tensor, b: Tensor, resamples: int = 20, seed: int = 0) -> float:
    """Standard deviation of the Frechet distance when both sets of features [n, d] are drawn anew with replacement.

    Only the spread is of use: the distances of resamples lie above that of the sets themselves, as each resample holds
    fewer different vectors.
    """
    generator = torch.Generator().manual_seed(seed)
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    (mean_a, cov_a), (mean_b, cov_b) = (_resampled(x, resamples, generator) for x in (a, b))
    return float(_distances(mean_a, cov_a, mean_b, cov_b, _root_trace(cov_a, cov_b)).std())


def _resampled(x: Tensor, resamples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Means [resamples, d] and covariances [resamples, d, d] of `resamples` draws of n vectors from `x` [n, d]."""
    n = len(x)
    chosen = torch.randint(n, (resamples, n), generator=generator)
    # How often each vector was drawn serves as its weight, so nothing of size resamples x n x d is built.
    weights = torch.zeros(resamples, n, dtype=x.dtype).scatter_add_(1, chosen, torch.ones(resamples, n, dtype=x.dtype))
    centre = x.mean(0)
    x = x - centre
    offsets = weights @ x / n
    second = torch.stack([x.T @ (weight[:, None] * x) for weight in weights])
    covariances = (second - n * offsets[:, :, None] * offsets[:, None, :]) / max(n - 1, 1)
    return centre + offsets, covariances


def _distances(mean_a: Tensor, a: Tensor, mean_b: Tensor, b: Tensor, cross: Tensor) -> Tensor:
    """Frechet distances of means [..., d] and covariances [..., d, d], whose tr (A B)^(1/2) is `cross`: [...].

    Never below zero, where rounding can lead.
    """
    traces = a.diagonal(dim1=-2, dim2=-1).sum(-1) + b.diagonal(dim1=-2, dim2=-1).sum(-1)
    distances: Tensor = (mean_a - mean_b).square().sum(-1) + traces - 2 * cross
    return distances.clamp_min(0)


def _root_trace(a: Tensor, b: Tensor) -> Tensor:
    """tr (A B)^(1/2) of covariances [..., d, d]: [...]; exact for those without full rank too.

    With A = F F^T and B = H H^T it is the sum of the singular values of F^T H: no square root of a product that is not symmetric.
    """
    return torch.linalg.svdvals(_factor(a).mT @ _factor(b)).sum(-1)


def _root_trace_of_full_rank(a: Tensor, b: Tensor) -> Tensor | None:
    """The same of two [d, d], faster; None where it would lose more than ACCURACY of it to rounding.

    With A = L L^T, A B has the eigenvalues of L^T B L. Each is known to some d eps of the product of both norms, of which the
    root makes much where they are small.
    """
    factor, failed = torch.linalg.cholesky_ex(a)
    if failed:
        return None
    values = torch.linalg.eigvalsh(factor.mT @ b @ factor)
    error = len(values) * torch.finfo(values.dtype).eps * _norm(a) * _norm(b)
    roots = values.clamp_min(0).sqrt()
    if values[0] < 2 * error or (error / roots).sum() > ACCURACY * roots.sum():
        return None
    return roots.sum()


def _norm(a: Tensor) -> Tensor:
    """The largest eigenvalue of a covariance [d, d], nearly."""
    x = torch.randn(len(a), generator=torch.Generator().manual_seed(0), dtype=a.dtype)
    for _ in range(POWER_STEPS):
        x = a @ (x / x.norm())
    return x.norm()


def _factor(covariance: Tensor) -> Tensor:
    """F with F F^T = `covariance` [..., d, d]; eigenvalues that are rounding only (below d eps of the largest) count as zero."""
    values, vectors = torch.linalg.eigh(covariance)
    least = values[..., -1:].clamp_min(0) * (values.shape[-1] * torch.finfo(values.dtype).eps)
    roots = torch.where(values > least, values, 0).sqrt()
    return torch.mul(vectors, roots[..., None, :])
