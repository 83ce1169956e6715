"""The benchmark of the Frechet distance, small: both sides give the same number, again and again."""

import itertools

import pytest

from mvgan.bench import frechet
from mvgan.bench.harness import take_turn


def test_both_sides_agree() -> None:
    found = frechet.benchmark(32)
    assert found.settings["relative_difference"] < 1e-6 and found.settings["distance"] > 0.1
    assert [ratio.name for ratio in found.ratios] == ["mvgan / scipy sqrtm"]
    assert frechet.distance_by_root(32) == pytest.approx(frechet.distance(32), rel=1e-8)


def test_sides_compute_in_one_thread() -> None:
    """Their linear algebra too: no more CPU time than has passed."""
    for side in frechet.benchmark(256).sides:
        turn = take_turn(side, 0.5, 0)
        assert turn.cpu_s < 1.2 * turn.wall_s


def test_sides_count_distances() -> None:
    for side in frechet.benchmark(8).sides:
        assert list(itertools.islice(side.steps(*side.arguments), 3)) == [1, 1, 1]
