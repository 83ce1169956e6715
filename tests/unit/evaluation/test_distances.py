"""Distances from features that were kept in parts: those of the whole, in memory that does not grow with the samples."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from mvgan.evaluation import distances as by_parts
from mvgan.evaluation.distances import Comparison, Samples, compared, comparisons, join, joined
from mvgan.evaluation.parts import Part, keep, tell
from mvgan.metrics.frechet import frechet_distance, frechet_error
from mvgan.metrics.moments import Moments
from mvgan.storage.local import LocalStore
from mvgan.storage.uri import Store


def samples_of(store: Store, features: np.ndarray, size: int, content: str) -> Samples:
    """`features` [n, d] kept in parts of `size`."""
    parts = []
    for start in range(0, len(features), size):
        part = Part("pairs", "", content, start=start)
        keep(store, part, {"features": features[start : start + size]})
        parts.append((part.key, tell(store, part, torch.device("cpu"))))
    return Samples.of(parts)


@pytest.mark.parametrize(("size", "block"), [(7, 8192), (7, 64), (100, 64), (1000, 8192)])
def test_distances_are_those_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, block: int) -> None:
    """Whatever the parts and blocks; some blocks hold a single sample, which a resample may not have."""
    monkeypatch.setattr(by_parts, "PART", block)
    store, rng = LocalStore(str(tmp_path)), np.random.default_rng(0)
    a, b = rng.standard_normal((321, 6)).astype(np.float32), rng.standard_normal((65, 6)).astype(np.float32) + 1
    real, ours = samples_of(store, a, size, "a"), samples_of(store, b, size, "b")
    assert (real.count, ours.count) == (321, 65)
    wanted = comparisons([real], [ours])
    ((distance,),) = (found.values() for found in joined(wanted, [compared(store, comparison) for comparison in wanted]))
    one, two = torch.from_numpy(a), torch.from_numpy(b)
    assert distance.value == pytest.approx(frechet_distance(Moments.of(one), Moments.of(two)), rel=1e-12)
    assert len(distance.resampled) == 20
    assert np.std(distance.resampled, ddof=1) == pytest.approx(frechet_error(one, two), rel=1e-9)


def test_repeats_are_told_apart_and_need_no_resamples(tmp_path: Path) -> None:
    store, rng = LocalStore(str(tmp_path)), np.random.default_rng(1)
    sets = [samples_of(store, rng.standard_normal((30, 3)) + shift, 8, str(shift)) for shift in range(4)]
    wanted = comparisons(sets[:2], [sets[2], sets[1]])
    first, second = joined(wanted, [compared(store, comparison) for comparison in wanted])
    assert first["features"].value > 8 and second["features"].value == pytest.approx(0, abs=1e-9)
    assert not first["features"].resampled


def test_memory_does_not_grow_with_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak of numpy's memory, in which features are read, with ten times the parts."""
    store, peaks = LocalStore(str(tmp_path)), []
    monkeypatch.setattr(by_parts, "PART", 64)
    for count in (256, 2560):
        features = np.random.default_rng(2).standard_normal((count, 512)).astype(np.float32)
        samples = samples_of(store, features, 64, str(count))
        tracemalloc.start()
        compared(store, Comparison(0, "features", samples.parts, samples.parts, (0,)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] < 0.5 * features.nbytes


def test_other_figures_are_joined() -> None:
    rng = np.random.default_rng(1)
    parts = [{"motion": rng.random(n), "mean": rng.standard_normal((3, 4, 4)), "square": np.array(9.0 * n)} for n in (2, 5, 1)]
    whole = join(parts)
    np.testing.assert_array_equal(whole["motion"], np.concatenate([part["motion"] for part in parts]))
    np.testing.assert_allclose(whole["mean"], np.sum([part["mean"] for part in parts], axis=0))
    assert whole["square"] == 72 and join([]) == {}
