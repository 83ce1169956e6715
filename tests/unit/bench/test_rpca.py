"""The benchmark of the low-rank factorization, small: the objective is reached, and each side counts its Grams."""

import itertools
import json

import numpy as np
import pytest
import torch

from jobs import bench as verb
from mvgan.bench import rpca
from mvgan.bench.harness import Turn
from mvgan.motion.official import Factorization
from tests.unit.jobs.test_cli import refused
from tests.unit.motion import reference


DIM, LAM = 32, 0.1


def test_both_sides_reach_the_same_objective() -> None:
    """Reference: the minimum by another method, which neither is below."""
    found = rpca.benchmark(DIM, LAM)
    about, gram = found.settings, rpca.grams(DIM)[0].numpy()
    least = reference.solve(gram, LAM).objective
    assert least * (1 - 1e-9) <= about["objective"]["mvgan"] <= about["objective"]["released"] * (1 + 1e-6) <= least * (1 + 1e-5)
    assert about["iterations"]["released"] >= 50
    assert [ratio.name for ratio in found.ratios] == ["mvgan / released"]
    assert rpca.objective(torch.from_numpy(gram) / 2, torch.from_numpy(gram), LAM) == pytest.approx(
        reference.objective(gram / 2, gram, LAM)
    )


def test_an_early_end_is_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    zero = np.zeros((DIM, DIM))
    monkeypatch.setattr(rpca, "factorize", lambda gram, lam: Factorization(zero, zero, DIM, 2, 0.0))
    with pytest.raises(RuntimeError, match="ended after 2 iterations at rank 32"):
        rpca.benchmark(DIM, LAM)


def test_the_tolerance_is_the_loosest_that_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    gram = rpca.grams(DIM)[0]
    least = rpca.objective(rpca.robust_pca(gram, LAM, 10_000, 1e-7).low_rank, gram, LAM)
    assert rpca.reaching(gram, 2 * least, LAM) == 1e-2 > rpca.reaching(gram, least, LAM)
    monkeypatch.setattr(rpca, "TOLERANCES", (1e-2, 1e-3))
    with pytest.raises(RuntimeError, match=r"no tolerance down to 0\.001"):
        rpca.reaching(gram, 0.9 * least, LAM)


def test_the_released_code_factorizes_each_gram_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(rpca, "factorize", lambda gram, lam: seen.append(float(gram[0, 0])))
    assert list(itertools.islice(rpca.released(DIM, LAM), 4)) == [0, 1, 1, 1]
    former, latter = (float(gram[0, 0]) for gram in rpca.grams(DIM))
    assert seen == [former, latter, former]
    assert list(itertools.islice(rpca.factorizations(DIM, LAM, 1e-3), 3)) == [0, 2, 2], "four runs a latent there are two here"


def test_the_last_line_is_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of known speed in place of measured ones, which test_harness.py has."""
    pytest.importorskip("psutil", reason="psutil is not installed (extra `bench`)")
    monkeypatch.setitem(verb.BENCHMARKS, "rpca", lambda _: rpca.benchmark(DIM, LAM))
    monkeypatch.setattr(verb, "compare", lambda *_: {"mvgan": [Turn(2, 1.0, 0.5, 1.0)], "released": [Turn(1, 2.0, 2.0, 1.0)]})
    verb.run(verb.Flags("rpca", rounds=1))
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["benchmark"] == "rpca" and found["ratio"] == found["ratios"]["mvgan / released"] == 8
    assert found["spectrum"] == "k^-2"
    assert "rpca reads no --device" in refused(verb.run, verb.Flags, "rpca", "--device", "cuda")
