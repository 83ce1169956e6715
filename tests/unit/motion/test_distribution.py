"""The distribution of mapped w: its shrunk covariance by loops, and distances by scipy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from torch import Tensor

from mvgan.config import InputError
from mvgan.motion.distribution import LatentDistribution, fit_distribution


W_DIM = 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(n: int, seed: int) -> Tensor:
    return normal(n, W_DIM, seed=seed) @ normal(W_DIM, W_DIM, seed=9) + 2


def distribution() -> LatentDistribution:
    return LatentDistribution.fit(correlated(400, 1), correlated(400, 2))


@pytest.mark.parametrize("n", [5, 40])
def test_shrinkage(n: int) -> None:
    """Reference: Ledoit & Wolf 2004, Sec. 3.2, by loops: m, d^2, b-bar^2 and b^2 with |A|^2 = tr(A A^T) / p."""
    x = correlated(n, 4).numpy()
    centred = x - x.mean(0)
    sample = centred.T @ centred / n
    m = np.trace(sample) / W_DIM
    d2 = np.sum((sample - m * np.eye(W_DIM)) ** 2) / W_DIM
    b2 = min(d2, sum(np.sum((np.outer(row, row) - sample) ** 2) / W_DIM for row in centred) / n**2)
    expected = b2 / d2 * m * np.eye(W_DIM) + (d2 - b2) / d2 * sample
    found = LatentDistribution.fit(torch.from_numpy(x), torch.from_numpy(x))
    assert found.shrinkage == pytest.approx(b2 / d2, rel=1e-9)
    np.testing.assert_allclose((found.factor @ found.factor.T).numpy(), expected, rtol=1e-9, atol=1e-9)


def test_distances_and_quantiles() -> None:
    """Reference: scipy, by 1 / sqrt(w_dim); quantiles are of the codes that nothing was fitted to."""
    found, held_out = distribution(), correlated(400, 2)
    inverse = np.linalg.inv((found.factor @ found.factor.T).numpy())
    expected = np.array([mahalanobis(w, found.mean.numpy(), inverse) for w in held_out.numpy()]) / np.sqrt(W_DIM)
    np.testing.assert_allclose(found.distance(held_out).numpy(), expected, rtol=1e-9)
    assert found.quantile(0.95) == pytest.approx(np.quantile(expected, 0.95), rel=1e-9)
    assert found.distance(held_out.reshape(20, 20, W_DIM)).shape == (20, 20)


def test_distances_in_w_plus() -> None:
    """Reference: scipy, the farthest layer's: a code of one layer alone can leave it. One w in all layers is as far as it is in W."""
    found, ws = distribution(), correlated(3 * 20, 7).reshape(20, 3 * W_DIM)
    inverse, mean = np.linalg.inv((found.factor @ found.factor.T).numpy()), found.mean.numpy()
    expected = [max(mahalanobis(w, mean, inverse) for w in layers) / np.sqrt(W_DIM) for layers in ws.numpy().reshape(20, 3, W_DIM)]
    np.testing.assert_allclose(found.distance(ws).numpy(), expected, rtol=1e-9)
    w = ws[:, :W_DIM]
    np.testing.assert_allclose(found.distance(w.repeat(1, 3)).numpy(), found.distance(w).numpy(), rtol=1e-12)


@pytest.mark.parametrize("layers", [1, 3])
def test_what_is_far_is_drawn_in_on_a_straight_line(layers: int) -> None:
    """Near ones stay to the bit; the others come to lie at the distance asked for, between where they were and their anchor."""
    found, w = distribution(), 2 + 1.3 * (correlated(60 * layers, 5).reshape(60, -1) - 2)
    anchor = (found.mean + 0.3 * (correlated(60, 6) - found.mean)).repeat(1, layers)
    most = found.quantile(0.9)
    near = found.distance(anchor) < most
    w, anchor = w[near], anchor[near]
    drawn, far = found.drawn_in(w, anchor, most), found.distance(w) > most
    assert 5 < int(far.sum()) < len(w) and torch.equal(drawn[~far], w[~far])
    np.testing.assert_allclose(found.distance(drawn[far]).numpy(), most, rtol=1e-9)
    share = (drawn - anchor)[far] / (w - anchor)[far]
    torch.testing.assert_close(share, share[:, :1].expand_as(share), rtol=1e-6, atol=1e-9)
    assert share.min() > 0 and share.max() < 1


def test_one_w_for_all_is_refused() -> None:
    with pytest.raises(InputError, match="the same w for every z"):
        LatentDistribution.fit(torch.ones(10, W_DIM), torch.ones(10, W_DIM))


def test_the_fit_takes_fresh_codes_of_the_mapping() -> None:
    """Reference: a linear mapping, whose covariance is known."""
    matrix = normal(W_DIM, W_DIM, seed=9).float()
    found = fit_distribution(lambda z: z @ matrix + 2, torch.Generator().manual_seed(0), W_DIM, torch.device("cpu"))
    torch.testing.assert_close(found.mean, torch.full((W_DIM,), 2.0, dtype=torch.float64), rtol=0, atol=0.15)
    np.testing.assert_allclose((found.factor @ found.factor.T).numpy(), (matrix.T @ matrix).numpy(), rtol=0, atol=0.4)
    assert found.quantile(0.5) == pytest.approx(1, rel=0.1)
