"""Walks through w of any length in constant memory: the paper's plain recursion, and one that stays where the generator knows w.

Plain (eq. 10): w_t+1 = w_t + M_t codes. Steps add up, so that w leaves what the mapping network gives, and frames with it.
Held: w_t+1 = a + (1 - pull) (w_t - a) + (M_t - M) codes. The anchor a is w_0, brought within `inner` of the latent distribution; M is the
mean coefficient of L_omega in the long run, without which even a held walk would come to rest at one side; and `pull` is the least at
which walks stay within `inner`. As L_omega's coefficients come from noise and not from w, holding changes none of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mvgan.nets.latent import LatentGenerator, Side, shown_sides


INNER = 0.95
"""Quantile of the distances of mapped w that held walks are to stay within."""

WALKS, STEPS = 16, 1024
"""Walks, and steps of each, by which a held walk is set."""

FITTED = 8192
"""Codes w that a latent distribution is fitted to; as many others give its quantiles."""


@dataclass(frozen=True)
class LatentDistribution:
    """Where the mapping network puts w: mean and covariance, shrunk towards a multiple of the identity, and a quantile of distances.

    Source of the shrinkage: Ledoit & Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices, Sec. 3.
    """

    mean: Tensor
    """[w_dim], float64."""
    factor: Tensor
    """Lower Cholesky factor of the covariance, float64 [w_dim, w_dim]."""
    shrinkage: float
    """Weight of the identity, from 0 to 1."""
    held_out: Tensor
    """Distances of w that it was not fitted to, in rising order."""

    @classmethod
    def fit(cls, w: Tensor, held_out: Tensor) -> "LatentDistribution":
        """Fitted to `w` [n, w_dim], n >= 2; the quantiles are those of `held_out` [m, w_dim]."""
        x = w.double().cpu()
        mean, n, d = x.mean(0), len(x), x.shape[1]
        x = x - mean
        sample = x.T @ x / n
        target = sample.trace() / d * torch.eye(d, dtype=x.dtype)
        off_target = (sample - target).square().sum()
        noise = (x.square().sum(1).square().mean() - sample.square().sum()) / n
        shrinkage = float((noise / off_target).clamp(0, 1)) if off_target > 0 else 1.0
        factor = torch.linalg.cholesky(shrinkage * target + (1 - shrinkage) * sample)
        fitted = cls(mean, factor, shrinkage, torch.zeros(0))
        return cls(mean, factor, shrinkage, fitted.distance(held_out).sort().values)

    def distance(self, w: Tensor) -> Tensor:
        """Mahalanobis distance of w [..., w_dim] over sqrt(w_dim), so about 1 for mapped w: float64 [...]."""
        x = (w.double().cpu() - self.mean).reshape(-1, len(self.mean))
        return torch.linalg.solve_triangular(self.factor, x.T, upper=False).square().mean(0).sqrt().view(w.shape[:-1])

    def quantile(self, share: float) -> float:
        """The distance below which that share of held-out w lie."""
        return float(torch.quantile(self.held_out, share))

    def within(self, w: Tensor, most: float) -> Tensor:
        """Those of `w` [n, w_dim] that are farther than `most` drawn straight towards the mean, to that distance; float as w."""
        share = (most / self.distance(w)).clamp_max(1).to(w)
        mean = self.mean.to(w)
        return torch.where(share[:, None] < 1, mean + (w - mean) * share[:, None], w)


@dataclass(frozen=True)
class Hold:
    """What keeps a walk in place; see the module. The plain walk has none."""

    pull: float
    """Share of the way back to the anchor taken each step, from 0 to 1."""
    mean: Tensor
    """Mean coefficients [2, num_codes] in the long run, for steps along backward and forward codes."""
    most: float
    """Distance beyond which an anchor is brought in."""


def chunks(
    latent: LatentGenerator, w: Tensor, noise: Callable[[int], Tensor], codes: Tensor, first: Side, size: int, hold: Hold | None = None
) -> Iterator[Tensor]:
    """w_0, w_1, ... without end, in pieces [n, size, w_dim]; `w` is w_0 [n, w_dim], or the anchor of a held walk.

    noise: gives the decoder's [n, size, w_dim] for the steps after piece 0, 1, ... Memory holds one piece.
    """
    state, anchor, place = latent.encoder(w), w, 0
    while True:
        coefficients, state = latent.steer(noise(place), state)
        if hold is None:
            ws = latent.walk(w, coefficients, codes, first)
        else:
            ws = held_walk(latent, anchor, w, coefficients, codes, first, hold)
        yield ws[:, :size]
        w, place = ws[:, size], place + 1
        # A piece of odd size would begin the next one on the other side of the pair.
        assert size % 2 == 0


def held_walk(latent: LatentGenerator, anchor: Tensor, w: Tensor, coefficients: Tensor, codes: Tensor, first: Side, hold: Hold) -> Tensor:
    """As `LatentGenerator.walk` from w [n, w_dim] by `coefficients` [n, steps, num_codes], held near `anchor` [n, w_dim]."""
    sides, codes = shown_sides(coefficients.shape[1] + 1, first), latent.residual * latent.scale[:, :, None] * codes
    ws = [w]
    for t, coefficient in enumerate(coefficients.unbind(1), start=1):
        step = (coefficient - hold.mean[sides[t]]) @ codes[sides[t]]
        ws.append(anchor + (1 - hold.pull) * (ws[-1] - anchor) + step)
    return torch.stack(ws, dim=1)


@torch.no_grad()
def fit_distribution(mapping: Callable[[Tensor], Tensor], draw: torch.Generator, z_dim: int, device: torch.device) -> LatentDistribution:
    """The distribution of what `mapping` gives for z [n, z_dim] drawn from `draw`, a generator on the CPU."""
    fitted, held_out = (mapping(torch.randn(FITTED, z_dim, generator=draw).to(device)) for _ in range(2))
    return LatentDistribution.fit(fitted, held_out)


@torch.no_grad()
def hold_of(
    latent: LatentGenerator, w: Tensor, noise: Tensor, codes: Tensor, first: Side, distribution: LatentDistribution, share: float = INNER
) -> Hold:
    """The weakest hold under which walks from `w` [n, w_dim] by `noise` [n, steps, w_dim] stay within the quantile `share`.

    All but 1 % of all w of the walks, that is, when their anchors lie within it. Steps are even in number. The pull is found by halving.
    """
    most = distribution.quantile(share)
    anchor = distribution.within(w, distribution.quantile(0.5))
    coefficients, _ = latent.steer(noise, latent.encoder(anchor))
    settled = coefficients[:, coefficients.shape[1] // 2 :]
    odd, even = settled[:, 0::2].mean((0, 1)), settled[:, 1::2].mean((0, 1))
    sides = shown_sides(3, first)  # the sides of steps 1 and 2
    mean = torch.stack([odd, even] if sides[1] == 0 else [even, odd])

    def farthest(pull: float) -> float:
        ws = held_walk(latent, anchor, anchor, coefficients, codes, first, Hold(pull, mean, most))
        return float(torch.quantile(distribution.distance(ws[:, 1:]).flatten(), 0.99))

    low, high = 0.0, 1.0
    if farthest(low) <= most:
        return Hold(low, mean, most)
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if farthest(middle) <= most else (middle, high)
    return Hold(high, mean, most)
