"""Mean and second moments of features, gathered in float64 and mergeable: the statistics of a Frechet distance."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor


PART = 8192
"""Vectors that are taken to float64 at once."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and central second moments of `n` feature vectors, float64 on the CPU."""

    n: int
    mean: Tensor
    """[d]"""
    m2: Tensor
    """Sum of (x - mean)(x - mean)^T, [d, d]."""

    @classmethod
    def of(cls, x: Tensor) -> "Moments":
        """The moments of features `x` [n, d], n >= 1, finite."""
        if x.ndim != 2 or len(x) < 1 or not x.isfinite().all():
            raise ValueError(f"expected finite features [n, d] with n >= 1, got {list(x.shape)}")
        return functools.reduce(cls.merge, map(cls._of_part, x.detach().cpu().split(PART)))

    @classmethod
    def _of_part(cls, x: Tensor) -> "Moments":
        x = x.double()
        mean = x.mean(0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets together (Chan, Golub, LeVeque 1979)."""
        n = self.n + other.n
        delta = other.mean - self.mean
        m2 = self.m2 + other.m2 + torch.outer(delta, delta) * (self.n * other.n / n)
        return Moments(n, self.mean + delta * (other.n / n), m2)

    @property
    def covariance(self) -> Tensor:
        """Sample covariance m2 / (n - 1), as FID takes it; zero of a single vector. [d, d]."""
        return self.m2 / max(self.n - 1, 1)


@dataclass(frozen=True)
class Factored:
    """The moments of vectors of which some count more than once, by a factor: with few vectors far smaller than a covariance."""

    n: int
    mean: Tensor
    """[d]"""
    factor: Tensor
    """F [m, d], m <= d, float64; F^T F is the sum of (x - mean)(x - mean)^T."""

    @classmethod
    def of(cls, x: Tensor, counts: Tensor) -> "Factored":
        """x: features [n, d]. counts: how often each is taken, [n], at least one more than zero times."""
        weights = counts[counts > 0].double()[:, None]
        rows = x[counts > 0].double()
        mean = (weights * rows).sum(0) / weights.sum()
        return cls(int(weights.sum()), mean, _short((rows - mean) * weights.sqrt()))

    def merge(self, other: "Factored") -> "Factored":
        """That of both sets together."""
        n, delta = self.n + other.n, other.mean - self.mean
        between = delta * (self.n * other.n / n) ** 0.5
        return Factored(n, self.mean + delta * (other.n / n), _short(torch.cat([self.factor, other.factor, between[None]])))


def _short(factor: Tensor) -> Tensor:
    """A factor of the same F^T F, of at most as many rows as columns."""
    return factor if len(factor) <= factor.shape[1] else torch.linalg.qr(factor, mode="r").R
