"""Where the mapping network puts w: what motion codes are measured against, and what long walks and projections are held to."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mvgan.config import ANOTHER_NAME, InputError
from mvgan.nets.space import by_layer, in_space_of


FITTED = 8192
"""Codes w that a latent distribution is fitted to; as many others give its quantiles."""


@dataclass(frozen=True)
class LatentDistribution:
    """Where the mapping network puts w: mean and covariance, shrunk towards a multiple of the identity, and a quantile of distances.

    A latent of W+ [..., num_ws * w_dim] is measured layer by layer: its squared distance is the mean of those of its layers' w.
    Source of the shrinkage: Ledoit & Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices, Sec. 3.
    """

    mean: Tensor
    """[w_dim], float64."""
    factor: Tensor
    """Lower Cholesky factor of the covariance, float64 [w_dim, w_dim]."""
    shrinkage: float
    """Weight of the identity, from 0 to 1."""
    held_out: Tensor
    """Distances of w that it was not fitted to."""

    @classmethod
    def fit(cls, w: Tensor, held_out: Tensor) -> "LatentDistribution":
        """Fitted to `w` [n, w_dim], n >= 2; the quantiles are those of `held_out` [m, w_dim]. Raises InputError where all w are one."""
        x = w.double().cpu()
        mean, n, d = x.mean(0), len(x), x.shape[1]
        x = x - mean
        sample = x.T @ x / n
        target = sample.trace() / d * torch.eye(d, dtype=x.dtype)
        off_target = (sample - target).square().sum()
        noise = (x.square().sum(1).square().mean() - sample.square().sum()) / n
        shrinkage = float((noise / off_target).clamp(0, 1)) if off_target > 0 else 1.0
        factor, failed = torch.linalg.cholesky_ex(shrinkage * target + (1 - shrinkage) * sample)
        if failed or not factor.isfinite().all():
            raise InputError(
                f"the mapping network gives the same w for every z, so w has no distribution; train stage 1 again {ANOTHER_NAME}"
            )
        fitted = cls(mean, factor, shrinkage, torch.zeros(0))
        return cls(mean, factor, shrinkage, fitted.distance(held_out))

    def white(self, x: Tensor) -> Tensor:
        """Differences of w [..., w_dim] in units in which mapped w vary alike in all directions, by 1 / sqrt(w_dim).

        By layer: float64 [..., 1, w_dim], of W+ [..., num_ws, w_dim].
        """
        rows = by_layer(x.double().cpu(), len(self.mean))
        white = torch.linalg.solve_triangular(self.factor, rows.reshape(-1, rows.shape[-1]).T, upper=False).T
        return white.reshape(rows.shape) / len(self.mean) ** 0.5

    def distance(self, w: Tensor) -> Tensor:
        """Mahalanobis distance of w [..., w_dim] over sqrt(w_dim), so about 1 for mapped w; of W+ the largest of a layer: float64 [...]."""
        return self.white(self._off_mean(w)).norm(dim=-1).amax(dim=-1)

    def _off_mean(self, w: Tensor) -> Tensor:
        return w.double().cpu() - in_space_of(w, self.mean)

    def quantile(self, share: float) -> float:
        """The distance below which that share of held-out w lie."""
        return float(torch.quantile(self.held_out, share))

    def drawn_in(self, w: Tensor, towards: Tensor, most: float) -> Tensor:
        """`w` [n, w_dim], those that are farther than `most` drawn straight to that distance; `towards` [n, w_dim] is nearer than that."""
        a, u = self.white(self._off_mean(towards)), self.white(w.double().cpu() - towards.double().cpu())
        # |a + s u|^2 = most^2 for s in [0, 1], in each layer.
        uu, au, room = u.square().sum(-1), (a * u).sum(-1), most**2 - a.square().sum(-1)
        beyond = uu + 2 * au > room
        share = torch.where(beyond, ((au.square() + uu * room).sqrt() - au) / uu, 1).amin(dim=-1)
        return torch.where(beyond.any(dim=-1)[:, None].to(w.device), towards + (w - towards) * share[:, None].to(w), w)


@torch.no_grad()
def fit_distribution(mapping: Callable[[Tensor], Tensor], draw: torch.Generator, z_dim: int, device: torch.device) -> LatentDistribution:
    """The distribution of what `mapping` gives for z [n, z_dim] drawn from `draw`, a generator on the CPU."""
    fitted, held_out = (mapping(torch.randn(FITTED, z_dim, generator=draw).to(device)) for _ in range(2))
    return LatentDistribution.fit(fitted, held_out)
