"""The Frechet distance between two sets of features, and its bootstrap error."""

import logging

import numpy as np
import torch
from torch import Tensor

from mvgan.metrics.moments import Factored, Moments


logger = logging.getLogger(__name__)

ACCURACY = 1e-7
"""Most that the faster way may lose of tr (A B)^(1/2), by a bound that rounding hardly ever reaches; else the other is taken."""

BELOW_ZERO = "a Frechet distance of %.2g is below zero by rounding, and counts as 0"

RESAMPLES = 20
"""Draws with replacement behind an error."""

POWER_STEPS = 20
"""Steps of the power iteration by which norms are estimated, to some percent."""


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of the covariances A and B (Heusel et al. 2017, eq. 6)."""
    distance = signed_distance(a, b)
    if distance < 0:  # by rounding: it is the difference of numbers as large as the traces
        logger.warning(BELOW_ZERO, distance)
    return max(distance, 0.0)


def signed_distance(a: Moments, b: Moments) -> float:
    """The same as it comes out, by rounding perhaps below zero."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and {len(b.mean)} dimensions cannot be compared")
    first, second = a.covariance, b.covariance
    cross = _root_trace_of_full_rank(first, second) if min(a.n, b.n) > len(a.mean) else None
    if cross is None:
        cross = _root_trace(first, second)
    return float(_distance(a.mean, first.trace(), b.mean, second.trace(), cross))


def frechet_error(a: Tensor, b: Tensor, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Standard deviation of the Frechet distance when both sets of features [n, d] are drawn anew with replacement.

    Of features [n, k, d], k of each sample, that of the mean of the k distances.
    """
    sets = [x.detach().cpu().reshape(len(x), -1, x.shape[-1]) for x in (a, b)]
    distances = []
    for number in range(resamples):
        counts = [drawn(len(x), seed, number, side) for side, x in enumerate(sets)]
        kinds = zip(*(x.unbind(1) for x in sets), strict=True)
        factors = [[Factored.of(x, some) for x, some in zip(kind, counts, strict=True)] for kind in kinds]
        distances.append(np.mean([resampled_distance(*both) for both in factors]))
    return float(np.std(distances, ddof=1))


def drawn(n: int, seed: int, number: int, side: int) -> Tensor:
    """How often each of `n` vectors comes in resample `number` with replacement, int64 [n]; side: 0 of the real ones, 1 of the others."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 2 * number + side]))
    return torch.from_numpy(np.bincount(rng.integers(n, size=n), minlength=n))


def resampled_distance(a: Factored, b: Factored) -> float:
    """The Frechet distance of two resamples, by their own factors: no covariance of all dimensions has to be taken apart.

    Only the spread of such distances is of use: they lie above that of the sets themselves, as a resample holds fewer different vectors.
    """
    first, second = (x.factor / max(x.n - 1, 1) ** 0.5 for x in (a, b))
    cross = torch.linalg.svdvals(first @ second.mT).sum()
    return float(_distance(a.mean, first.square().sum(), b.mean, second.square().sum(), cross))


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
