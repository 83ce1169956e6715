"""Mergeable moments against numpy on the whole set."""

import numpy as np
import pytest
import torch

from mvgan.metrics.moments import Factored, Moments


torch.set_num_threads(1)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_merged_parts_equal_numpy(offset: float) -> None:
    """Parts of unlike size, one a single vector; a large offset would show cancellation."""
    x = np.random.default_rng(0).standard_normal((500, 7)) @ np.random.default_rng(1).standard_normal((7, 7)) + offset
    parts = [Moments.of(torch.from_numpy(part)) for part in np.split(x, [1, 4, 300])]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert merged.n == 500
    covariance = np.cov(x, rowvar=False)
    assert np.abs(merged.mean.numpy() - x.mean(0)).max() <= 1e-12 * max(1, offset)
    assert np.abs(merged.covariance.numpy() - covariance).max() <= 1e-12 * np.abs(covariance).max()


def test_merging_does_not_depend_on_the_order() -> None:
    a, b = (Moments.of(torch.randn(20, 5, generator=torch.Generator().manual_seed(i), dtype=torch.float64)) for i in (0, 1))
    assert torch.allclose(a.merge(b).m2, b.merge(a).m2, rtol=1e-12, atol=1e-12)


def test_a_single_vector_has_no_covariance_and_bad_input_is_refused() -> None:
    assert not Moments.of(torch.ones(1, 3)).covariance.any()
    for x in (torch.zeros(0, 3), torch.zeros(3), torch.full((2, 3), torch.nan)):
        with pytest.raises(ValueError, match="finite features"):
            Moments.of(x)


@pytest.mark.parametrize(("n", "d"), [(500, 7), (12, 40)])
def test_factors_of_vectors_that_count_more_than_once(n: int, d: int) -> None:
    """Against numpy on the vectors repeated; whole and merged from parts, with more vectors than dimensions and with fewer."""
    rng = np.random.default_rng(0)
    x, counts = rng.standard_normal((n, d)) + 3, rng.integers(0, 4, n)
    splits = [1 + int(np.flatnonzero(counts)[0]), n // 2]
    parts = [
        Factored.of(torch.from_numpy(a), torch.from_numpy(b)) for a, b in zip(np.split(x, splits), np.split(counts, splits), strict=True)
    ]
    repeated = np.repeat(x, counts, axis=0)
    for found in (Factored.of(torch.from_numpy(x), torch.from_numpy(counts)), parts[0].merge(parts[1]).merge(parts[2])):
        assert found.n == counts.sum() and len(found.factor) <= d
        np.testing.assert_allclose(found.mean, repeated.mean(0), rtol=1e-12)
        centred = repeated - repeated.mean(0)
        np.testing.assert_allclose(found.factor.mT @ found.factor, centred.T @ centred, rtol=0, atol=1e-12 * np.square(centred).sum())
