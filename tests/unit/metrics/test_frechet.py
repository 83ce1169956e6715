"""The Frechet distance against scipy's matrix root, closed forms, and reference values of published recipes."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from mvgan.metrics import frechet
from mvgan.metrics.frechet import drawn, frechet_distance, frechet_error
from mvgan.metrics.moments import Moments


torch.set_num_threads(1)


def gaussian(mean: Tensor, covariance: Tensor) -> Moments:
    """Moments that stand for a Gaussian exactly: 101 samples, so m2 is 100 covariances."""
    return Moments(101, mean.double(), covariance.double() * 100)


def features(n: int, d: int, seed: int) -> Tensor:
    rng = np.random.RandomState(seed)
    return torch.from_numpy(rng.randn(n, d) @ rng.randn(d, d) / d**0.5 + rng.randn(d))


@pytest.mark.parametrize("n", [300, 20])
def test_equals_scipy_matrix_root(n: int) -> None:
    """Full rank, and fewer samples than dimensions (there scipy's root itself is good to some 1e-5 only)."""
    a, b = features(n, 40, 0), features(n, 40, 1)
    cov_a, cov_b = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-10 if n == 300 else 1e-5)


@pytest.mark.parametrize("n", [300, 41, 40, 20])
def test_both_ways_agree_and_the_faster_one_knows_its_limits(n: int) -> None:
    """Reference: the singular values. The faster way is taken for 300 samples in 40 dimensions, never without full rank."""
    a, b = (Moments.of(features(n, 40, seed)).covariance for seed in (0, 1))
    fast = frechet._root_trace_of_full_rank(a, b)
    assert (fast is not None) >= (n == 300) and (fast is None) >= (n <= 40)
    if fast is not None:
        torch.testing.assert_close(fast, frechet._root_trace(a, b), rtol=frechet.ACCURACY, atol=0)


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-5])
def test_dependent_features_are_told_from_full_rank(scale: float) -> None:
    """Of 21 features one is the sum of two others, along which the other set varies most: only the singular values are exact."""
    a, b = features(400, 20, 0), features(400, 21, 1) * scale
    a = torch.cat([a, a[:, :1] + a[:, 1:2]], 1)
    b[:, 20] -= features(400, 1, 2)[:, 0] * 10
    one, other = Moments.of(a), Moments.of(b)
    expected = frechet._root_trace(one.covariance, other.covariance)
    for first, second in ((one, other), (other, one)):
        fast = frechet._root_trace_of_full_rank(first.covariance, second.covariance)
        assert fast is None or abs(fast / expected - 1) < frechet.ACCURACY
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one), rel=1e-7)


def test_the_error_of_several_kinds_is_that_of_their_mean() -> None:
    """Of one kind, and of the same one twice, it is the plain one; of kinds that vary against each other it is smaller than either's."""
    a, b = features(200, 8, 0), features(200, 8, 1)
    plain = frechet_error(a, b)
    assert frechet_error(a[:, None], b[:, None]) == plain
    assert frechet_error(torch.stack([a, a], 1), torch.stack([b, b], 1)) == pytest.approx(plain, rel=1e-9)
    mixed = frechet_error(torch.stack([a, b], 1), torch.stack([b, a], 1))
    assert 0 < mixed < max(plain, frechet_error(b, a))


def test_equals_closed_forms() -> None:
    one = torch.ones(1)
    assert frechet_distance(gaussian(0 * one, 4 * torch.eye(1)), gaussian(3 * one, 25 * torch.eye(1))) == pytest.approx(9 + 9)
    a, b = torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([4.0, 9, 16, 25, 36])
    zero = torch.zeros(5)
    expected = float((a.double().sqrt() - b.double().sqrt()).square().sum())
    assert frechet_distance(gaussian(zero, a.diag()), gaussian(zero, b.diag())) == pytest.approx(expected, rel=1e-12)
    x = features(50, 30, 3)
    assert 0 <= frechet_distance(Moments.of(x), Moments.of(x)) < 1e-10
    assert frechet_distance(Moments.of(torch.zeros(8, 400)), Moments.of(torch.full((8, 400), 0.25))) == 25.0
    with pytest.raises(ValueError, match="5 and 30 dimensions"):
        frechet_distance(gaussian(zero, a.diag()), Moments.of(x))


RECIPES = {
    "full_rank_400": lambda: (np.random.RandomState(0).randn(2048, 400), 1.3 * np.random.RandomState(1).randn(2048, 400) + 0.1),
    "correlated_400": lambda: (
        np.random.RandomState(0).randn(2048, 400) @ (np.random.RandomState(2).randn(400, 400) / 20),
        np.random.RandomState(1).randn(2048, 400),
    ),
    "rank_deficient_16x400": lambda: (np.random.RandomState(0).randn(16, 400), np.random.RandomState(1).randn(16, 400) + 0.5),
    "identical": lambda: (np.random.RandomState(0).randn(64, 400), np.random.RandomState(0).randn(64, 400)),
    "constant_features": lambda: (np.zeros((8, 400)), np.full((8, 400), 0.25)),
    "offset_large_mean": lambda: (np.random.RandomState(0).randn(512, 400) + 1000, np.random.RandomState(1).randn(512, 400) + 1000),
}


STATISTICS = {
    "pytorch-fid test": lambda: (gaussian(torch.zeros(2048), torch.eye(2048)), gaussian(torch.ones(2048), torch.eye(2048))),
    "diagonal": lambda: (
        gaussian(torch.zeros(5), torch.tensor([1.0, 2, 3, 4, 5]).diag()),
        gaussian(torch.zeros(5), torch.tensor([4.0, 9, 16, 25, 36]).diag()),
    ),
    "1-D": lambda: (gaussian(torch.zeros(1), 4 * torch.eye(1)), gaussian(3 * torch.ones(1), 25 * torch.eye(1))),
}  # fmt: skip


def reference_values(kind: str) -> dict[str, Any]:
    root = os.environ.get("MVGAN_TEST_DATA")
    if not root:
        pytest.skip("MVGAN_TEST_DATA is not set: the reference values are kept with the test data")
    cases = json.loads((Path(root) / "fvd" / "fvd_reference_values.json").read_text())[kind]
    return {case["name"]: case for case in cases}


def test_equals_reference_values_of_features() -> None:
    """All in fvd_reference_values.json: exact distances of seeded features, by the nuclear norm of the centred feature product."""
    cases = reference_values("frechet_from_features_no_weights_needed")
    assert cases.keys() == RECIPES.keys()
    for name, case in cases.items():
        x, y = (Moments.of(torch.from_numpy(side)) for side in RECIPES[name]())
        assert frechet_distance(x, y) == pytest.approx(case["exact_nuclear_norm"], rel=1e-9, abs=1e-9), name


def test_equals_reference_values_of_statistics() -> None:
    """All in fvd_reference_values.json that are given as means and covariances."""
    cases = reference_values("frechet_from_statistics")
    assert cases.keys() == STATISTICS.keys()
    for name, case in cases.items():
        assert frechet_distance(*STATISTICS[name]()) == pytest.approx(case["expected"], rel=1e-9), name


def test_what_rounding_takes_below_zero_is_said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    x = Moments.of(features(50, 30, 3))
    monkeypatch.setattr(frechet, "_root_trace", lambda a, b: a.trace() + 1e-9)
    assert frechet_distance(x, x) == 0 and "is below zero by rounding, and counts as 0" in caplog.text


def test_bootstrap_error_is_the_spread_of_fresh_draws() -> None:
    """Against the standard deviation of the distance over independent draws of the same size."""
    distances = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        a, b = (torch.randn(200, 6, generator=generator, dtype=torch.float64) for _ in range(2))
        distances.append(frechet_distance(Moments.of(a), Moments.of(b + 0.5)))
    spread = float(np.std(distances))
    assert 0.5 * spread < frechet_error(a, b + 0.5, resamples=200) < 2 * spread
    assert frechet_error(a, b, seed=1) == frechet_error(a, b, seed=1) != frechet_error(a, b, seed=2)


def test_bootstrap_resamples_equal_numpy_on_the_drawn_rows() -> None:
    """Two resamples have a spread of |difference| / sqrt(2); both distances are taken anew from the rows that were drawn."""
    a, b = features(60, 5, 0), features(60, 5, 1)
    rows = [[np.repeat(np.arange(60), drawn(60, 7, number, side)) for side in (0, 1)] for number in (0, 1)]
    one, two = (frechet_distance(Moments.of(a[ours]), Moments.of(b[theirs])) for ours, theirs in rows)
    assert frechet_error(a, b, resamples=2, seed=7) == pytest.approx(abs(one - two) / 2**0.5, rel=1e-9)


def test_a_resample_is_a_draw_with_replacement() -> None:
    """As many as there are, and each as often as a Poisson of mean 1 has it, as it nearly is; no draw is like another."""
    counts = [drawn(20000, 0, number, side).numpy() for number in (0, 1) for side in (0, 1)]
    for some in counts:
        assert some.sum() == 20000
        np.testing.assert_allclose(np.bincount(some)[:4] / 20000, np.exp(-1) / np.array([1, 1, 2, 6]), atol=0.015)
    assert not any(np.array_equal(one, two) for index, one in enumerate(counts) for two in counts[:index])


def test_bootstrap_is_quick() -> None:
    a, b = features(1024, 128, 0).float(), features(1024, 128, 1).float()
    start = time.process_time()
    frechet_error(a, b)
    assert time.process_time() - start < 5
