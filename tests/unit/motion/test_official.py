"""The released procedure: where it ends too early, where it ends right, and its codes against scipy's null space."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from mvgan.config import InputError, Run
from mvgan.motion.factorize import combine, factorize_latent
from mvgan.motion.official import Factorization, factorize, official_codes
from mvgan.settings import from_dict
from tests.unit.motion.reference import Matrix, objective, solve, spectrum_gram


torch.set_num_threads(1)
D = 32
UNIT = torch.eye(D, dtype=torch.float64)


def falling(d: int, power: float) -> Matrix:
    return np.arange(1.0, d + 1) ** -power


def gram(d: int, power: float, seed: int = 0) -> Tensor:
    return torch.from_numpy(spectrum_gram(falling(d, power), seed))


@pytest.mark.parametrize("values", [falling(512, 1.5), np.exp(-np.arange(512) / 80)], ids=["k^-1.5", "exp(-i/80)"])
def test_it_stops_at_full_rank_on_slowly_falling_spectra(values: Matrix) -> None:
    """At the paper's 512 dimensions and lambda. Two iterations, and far from the minimum: L = M alone is hardly worse."""
    matrix = spectrum_gram(values)
    found = factorize(torch.from_numpy(matrix), 1 / 60)
    assert (found.iterations, found.rank, found.converged) == (2, 512, True)
    assert objective(found.low_rank, matrix, 1 / 60) > 0.97 * np.trace(matrix)
    with pytest.raises(
        InputError, match=r"stopped after 2 iterations at rank 512 of 512.* 30 codes are one vector; take --codes.method"
    ) as error:
        official_codes(found, found, 30)
    assert "\n" not in str(error.value)


def test_it_reaches_the_minimum_where_it_goes_on() -> None:
    """A steep spectrum: reference, another method (tests/unit/motion/reference.py)."""
    matrix, lam = spectrum_gram(falling(D, 2.0)), 0.1
    found, expected = factorize(torch.from_numpy(matrix), lam), solve(matrix, lam)
    assert found.converged and found.iterations > 50
    assert objective(found.low_rank, matrix, lam) == pytest.approx(expected.objective, rel=1e-6)
    assert np.linalg.norm(found.low_rank + found.sparse - matrix) <= 1e-7 * np.linalg.norm(matrix)


def test_too_few_iterations_are_said() -> None:
    found = factorize(gram(D, 2.0), 0.1, max_iterations=3)
    assert not found.converged and found.iterations == 3


def low(rank: int, seed: int) -> Factorization:
    """A low-rank part whose singular vectors are known."""
    matrix = spectrum_gram(np.where(np.arange(D) < rank, falling(D, 1.0), 0), seed)
    return Factorization(matrix, np.zeros_like(matrix), rank, 100, 1e-8)


def test_codes_are_projections_on_the_null_space() -> None:
    """By scipy: singular vectors in their order, the part in the null space of the kept frame, made unit vectors, nothing else."""
    edit, keep = low(20, 1), low(12, 2)
    codes = official_codes(edit, keep, 6).numpy()
    null_space = scipy.linalg.null_space(keep.low_rank)
    assert null_space.shape == (D, D - 12)
    vectors = scipy.linalg.eigh(edit.low_rank)[1][:, ::-1].T[:6]
    expected = vectors @ null_space @ null_space.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    signs = np.sign((codes * expected).sum(1, keepdims=True))
    np.testing.assert_allclose(codes, signs * expected, atol=1e-10)
    assert np.abs(codes @ codes.T - np.eye(6)).max() > 0.01, "not orthonormalised"


def test_codes_that_cannot_be_used_are_refused() -> None:
    edit = low(20, 1)
    with pytest.raises(InputError, match=r"ended at rank 20, fewer than the 21 codes.*--num-codes.*--codes.method"):
        official_codes(edit, low(12, 2), 21)
    with pytest.raises(InputError, match=r"at rank 28 of 32, so that its 6 codes span 4 dimensions only.*--codes.method"):
        official_codes(edit, low(28, 2), 6)
    with pytest.raises(InputError, match=r"at rank 31 of 32, so that its 6 codes are one vector.*--codes.method"):
        official_codes(edit, low(31, 2), 6)
    with pytest.raises(InputError, match=r"leaves nothing of code \d .*--codes.method"):
        official_codes(edit, edit, 6)


def run_of(**codes: object) -> Run:
    values = {"num_codes": 4, "latents": 2, "codes": {"lam": 1 / math.sqrt(D), "grey": True, "source": "sample", **codes}}
    return from_dict(Run(), values)


def test_stage_2_takes_the_last_latent() -> None:
    """Its codes are the stage's, beside those of the other methods, and reported."""
    run = run_of(method="official", lam=0.1)
    pairs = [torch.stack([gram(D, 2.0, seed), gram(D, 2.0, seed + 1)]) for seed in (3, 5)]
    tensors, summary = combine([factorize_latent(grams, run.codes) for grams in pairs], UNIT, run)
    former, latter = (factorize(matrix, 0.1) for matrix in pairs[1])
    for direction, codes in (("backward", official_codes(former, latter, 4)), ("forward", official_codes(latter, former, 4))):
        assert torch.equal(tensors[direction], codes.float()) and torch.equal(tensors[f"official_{direction}"], codes.float())
        about = summary["official"][direction]
        assert about["converged"] and len(about["edited"]["by_code"]) == 4 and about["rank_edit"] >= 4
    assert summary["official"]["backward"]["iterations"] == [former.iterations, latter.iterations]
    assert "generalized_backward" in tensors


def test_its_silent_failure_ends_stage_2() -> None:
    run = run_of(method="official")
    flat = torch.stack([torch.from_numpy(spectrum_gram(np.linspace(2, 1, D), seed)) for seed in (1, 2)])
    samples = [factorize_latent(flat, run.codes)]
    with pytest.raises(InputError, match=r"are one vector; take --codes\.method generalized or nullspace"):
        combine(samples, UNIT, run)
    _, summary = combine(samples, UNIT, run_of(method="generalized"))
    assert "official" not in summary, "it takes minutes, so that it is found only when it is asked for"
