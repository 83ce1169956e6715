"""Distances from features that were kept in parts: those of the whole, in memory that does not grow with the samples."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mvgan.config import InputError
from mvgan.evaluation import distances as by_parts
from mvgan.evaluation.distances import Comparison, Samples, compared, comparisons, joined
from mvgan.evaluation.kept import Lost, keep, kept, keys
from mvgan.evaluation.parts import Part, Told, recall
from mvgan.metrics.frechet import frechet_distance, frechet_error
from mvgan.metrics.moments import Moments
from mvgan.storage.local import LocalStore
from mvgan.storage.uri import Store


def samples_of(store: Store, features: np.ndarray, size: int, content: str) -> Samples:
    """`features` [n, d] kept in parts of `size`."""
    samples = Samples()
    for start in range(0, len(features), size):
        part = Part("pairs", "", content, start=start)
        keep(store, part.key, {"features": features[start : start + size]})
        samples.add(part.key, recall(store, part))
    return samples


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


@pytest.mark.parametrize("resamples", [(), (0, 1)])
def test_memory_does_not_grow_with_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resamples: tuple[int, ...]) -> None:
    """The most parts that are in memory at once, with ten times as many: a block, and the part that ends it."""
    store, live, most = LocalStore(str(tmp_path)), 0, []
    monkeypatch.setattr(by_parts, "PART", 64)
    original = by_parts.kept

    def counted(*arguments: Any) -> Any:
        nonlocal live
        (array,) = (found := original(*arguments)).values()
        live += 1
        most[-1] = max(most[-1], live)

        def gone() -> None:
            nonlocal live
            live -= 1

        weakref.finalize(array, gone)
        return found

    monkeypatch.setattr(by_parts, "kept", counted)
    for count in (320, 3200):
        samples = samples_of(store, np.random.default_rng(2).standard_normal((count, 8)), 32, str(count))
        most.append(0)
        compared(store, Comparison(0, "features", samples.parts, samples.parts, resamples))
    assert most[0] == most[1] <= 4 and live == 0


@pytest.mark.parametrize(
    ("spoil", "told"), [(Path.unlink, "is gone"), (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged")]
)
def test_what_goes_while_it_is_evaluated_is_one_line(tmp_path: Path, spoil: Callable[[Path], None], told: str) -> None:
    store = LocalStore(str(tmp_path))
    samples = samples_of(store, np.random.default_rng(3).standard_normal((20, 3)), 8, "x")
    spoil(tmp_path / "evaluation/features" / f"{samples.parts[1][0]}.figures")
    with pytest.raises(InputError, match=rf"{told}: removed or damaged while it was evaluated; evaluate again"):
        compared(store, Comparison(0, "features", samples.parts, samples.parts))


def test_any_changed_byte_is_damage(tmp_path: Path) -> None:
    """All bytes of a file, one after another."""
    store = LocalStore(str(tmp_path))
    keep(store, "a", {"features": np.arange(6.0).reshape(2, 3), "motion": np.zeros(2)})
    path = tmp_path / "evaluation/features/a.figures"
    data = path.read_bytes()
    assert kept(store, "a", ("motion",)).keys() == {"motion"} and keys(store) == {"a"}
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(Lost, match="is damaged"):
            kept(store, "a")


def test_other_figures_are_joined() -> None:
    rng, samples = np.random.default_rng(1), Samples()
    parts = [{"motion": rng.random(n), "mean": rng.standard_normal((3, 4, 4)), "square": np.array(9.0 * n)} for n in (2, 5, 1)]
    for number, figures in enumerate(parts):
        samples.add(str(number), Told(len(figures["motion"]), (), figures))
    np.testing.assert_array_equal(samples.figures["motion"], np.concatenate([part["motion"] for part in parts]))
    np.testing.assert_allclose(samples.figures["mean"], np.sum([part["mean"] for part in parts], axis=0))
    assert samples.figures["square"] == 72 and samples.count == 8 and samples.parts == (("0", 2), ("1", 5), ("2", 1))
