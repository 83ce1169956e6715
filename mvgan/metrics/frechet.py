"""The Frechet distance between two sets of features, and its bootstrap error."""

import torch
from torch import Tensor

from mvgan.metrics.moments import Moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of the covariances A and B (Heusel et al. 2017, eq. 6)."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and {len(b.mean)} dimensions cannot be compared")
    return float(_distances(a.mean, a.covariance, b.mean, b.covariance))


def frechet_error(a: Tensor, b: Tensor, resamples: int = 20, seed: int = 0) -> float:
    """Standard deviation of the Frechet distance when both sets of features [n, d] are drawn anew with replacement.

    Only the spread is of use: the distances of resamples lie above that of the sets themselves, as each resample holds
    fewer different vectors.
    """
    generator = torch.Generator().manual_seed(seed)
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    return float(_distances(*_resampled(a, resamples, generator), *_resampled(b, resamples, generator)).std())


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


def _distances(mean_a: Tensor, a: Tensor, mean_b: Tensor, b: Tensor) -> Tensor:
    """Frechet distances of means [..., d] and covariances [..., d, d]: [...]; never below zero, where rounding can lead."""
    # With A = F F^T and B = H H^T the trace of (A B)^(1/2) is the sum of the singular values of F^T H: no square root of a
    # product that is not symmetric, and exact for covariances without full rank.
    cross = torch.linalg.svdvals(_factor(a).mT @ _factor(b)).sum(-1)
    traces = a.diagonal(dim1=-2, dim2=-1).sum(-1) + b.diagonal(dim1=-2, dim2=-1).sum(-1)
    distances: Tensor = (mean_a - mean_b).square().sum(-1) + traces - 2 * cross
    return distances.clamp_min(0)


def _factor(covariance: Tensor) -> Tensor:
    """F with F F^T = `covariance` [..., d, d]; eigenvalues that are rounding only (below d eps of the largest) count as zero."""
    values, vectors = torch.linalg.eigh(covariance)
    least = values[..., -1:].clamp_min(0) * (values.shape[-1] * torch.finfo(values.dtype).eps)
    roots = torch.where(values > least, values, 0).sqrt()
    return torch.mul(vectors, roots[..., None, :])
