"""The Frechet distance between two sets of features, and its bootstrap error."""

import logging

import torch
from torch import Tensor

from mvgan.metrics.moments import Moments


logger = logging.getLogger(__name__)

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
    distance = float(_distance(a.mean, first.trace(), b.mean, second.trace(), cross))
    if distance < 0:  # by rounding: it is the difference of numbers as large as the traces
        logger.warning("a Frechet distance of %.2g is below zero by rounding, and counts as 0", distance)
    return max(distance, 0.0)


def frechet_error(a: Tensor, b: Tensor, resamples: int = 20, seed: int = 0) -> float:
    """Standard deviation of the Frechet distance when both sets of features [n, d] are drawn anew with replacement."""
    return float(resampled_distances(a, b, resamples, seed).std())


def resampled_distances(a: Tensor, b: Tensor, resamples: int = 20, seed: int = 0) -> Tensor:
    """Distances [resamples] of both sets of features [n, d] drawn anew with replacement; for the same counts the same rows are drawn.

    Only their spread is of use: they lie above that of the sets themselves, as each resample holds fewer different vectors.
    """
    generator = torch.Generator().manual_seed(seed)
    sets = [x.detach().cpu().double() for x in (a, b)]
    chosen = [torch.randint(len(x), (resamples, len(x)), generator=generator) for x in sets]
    return torch.stack([_resampled_distance(*sets, *rows) for rows in zip(*chosen, strict=True)])


def _resampled_distance(a: Tensor, b: Tensor, chosen_a: Tensor, chosen_b: Tensor) -> Tensor:
    """The distance of the chosen vectors of two sets [n, d], by their own factors: no covariance of d dimensions has to be taken apart."""
    (mean_a, factor_a), (mean_b, factor_b) = _factored(a, chosen_a), _factored(b, chosen_b)
    cross = torch.linalg.svdvals(factor_a @ factor_b.mT).sum()
    return _distance(mean_a, factor_a.square().sum(), mean_b, factor_b.square().sum(), cross)


def _factored(x: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [d] of the rows of `x` [n, d] that were `chosen` [n], and F [m, d], m <= d, with F^T F their covariance."""
    rows, counts = chosen.unique(return_counts=True)
    weights = counts.to(x.dtype)[:, None] / len(x)
    mean = (weights * x[rows]).sum(0)
    factor = (x[rows] - mean) * (weights * len(x) / max(len(x) - 1, 1)).sqrt()
    return mean, factor if len(factor) <= x.shape[1] else torch.linalg.qr(factor, mode="r").R


def _distance(mean_a: Tensor, trace_a: Tensor, mean_b: Tensor, trace_b: Tensor, cross: Tensor) -> Tensor:
    """That of means [d] and covariances with these traces and `cross` = tr (A B)^(1/2)."""
    return (mean_a - mean_b).square().sum() + trace_a + trace_b - 2 * cross


def _root_trace(a: Tensor, b: Tensor) -> Tensor:
    """tr (A B)^(1/2) of covariances [d, d]; exact for those without full rank too.

    With A = F F^T and B = H H^T it is the sum of the singular values of F^T H: no square root of a product that is not symmetric.
    """
    return torch.linalg.svdvals(_factor(a).mT @ _factor(b)).sum()


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
    """F with F F^T = `covariance` [d, d]; eigenvalues that are rounding only (below d eps of the largest) count as zero."""
    values, vectors = torch.linalg.eigh(covariance)
    least = values[-1].clamp_min(0) * (len(values) * torch.finfo(values.dtype).eps)
    return torch.mul(vectors, torch.where(values > least, values, 0).sqrt())
