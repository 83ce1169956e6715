"""ADMM for robust PCA against known decompositions and the optimality of its convex problem."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mvgan.motion.rpca import rank_by_energy, robust_pca
from tests.unit.motion.reference import objective, solve, spectrum_gram


torch.set_num_threads(1)


def rotation(d: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


def falling_spectrum(d: int, power: float) -> Tensor:
    q = rotation(d)
    return q @ torch.diag(torch.arange(1, d + 1, dtype=torch.float64) ** -power) @ q.T


def test_recovers_a_known_low_rank_and_sparse_matrix() -> None:
    """Candes et al. 2011, theorem 1.1: at lambda = 1/sqrt(d) the recovery is exact."""
    d, rank = 80, 4
    generator = torch.Generator().manual_seed(1)
    q = rotation(d)[:, :rank]
    low_rank = q @ torch.diag(torch.tensor([40.0, 30.0, 20.0, 10.0], dtype=torch.float64)) @ q.T
    upper = torch.randn(d, d, generator=generator, dtype=torch.float64) * (torch.rand(d, d, generator=generator) < 0.02)
    sparse = torch.triu(upper) + torch.triu(upper, 1).T
    found = robust_pca(low_rank + sparse, 1 / math.sqrt(d), 1000)
    assert found.converged and found.rank == rank
    assert float((found.low_rank - low_rank).norm() / low_rank.norm()) < 1e-5
    assert float((found.sparse - sparse).norm() / sparse.norm()) < 1e-5
    assert torch.equal(found.sparse.abs() > 1e-4, sparse != 0)


@pytest.mark.parametrize(("lam", "most"), [(1 / math.sqrt(128), 80), (1 / 30, 12), (1 / 60, 4)])
def test_a_slowly_falling_spectrum_does_not_end_at_full_rank(lam: float, most: int) -> None:
    """k^-1.5 at d = 128. That the released penalty stops there at full rank at d = 512 is in test_official.py."""
    matrix = falling_spectrum(128, 1.5)
    found = robust_pca(matrix, lam, 1000)
    assert found.converged and found.iterations > 50
    assert 1 <= found.rank <= most and found.rank == len(found.eigenvalues) == found.eigenvectors.shape[1]
    assert torch.linalg.matrix_rank(found.low_rank) == found.rank
    assert float((found.low_rank + found.sparse - matrix).norm() / matrix.norm()) < 1e-7


@pytest.mark.parametrize(
    "values", [np.arange(1.0, 129) ** -1.5, np.exp(-np.arange(128) / 20)], ids=["k^-1.5", "exp(-i/20), which is exp(-i/80) at 512"]
)
def test_equals_another_method(values: np.ndarray) -> None:
    """Douglas-Rachford splitting to 1e-10: the same minimum, low-rank part and rank. tests/soak has this at 512 dimensions."""
    matrix, lam = spectrum_gram(values), 1 / math.sqrt(128)
    found, expected = robust_pca(torch.from_numpy(matrix), lam, 3000), solve(matrix, lam)
    assert found.converged and found.rank == expected.rank > 0
    assert objective(found.low_rank.numpy(), matrix, lam) == pytest.approx(expected.objective, rel=1e-6)
    assert np.linalg.norm(found.low_rank.numpy() - expected.low_rank) <= 1e-4 * np.linalg.norm(expected.low_rank)


def test_no_feasible_neighbour_is_better() -> None:
    """The problem is convex, so a point that no feasible step improves is its minimum."""
    matrix, lam = falling_spectrum(48, 1.0), 1 / math.sqrt(48)
    found = robust_pca(matrix, lam, 2000)

    def objective(low_rank: Tensor) -> float:
        return float(torch.linalg.matrix_norm(low_rank, "nuc") + lam * (matrix - low_rank).abs().sum())

    best = objective(found.low_rank)
    generator = torch.Generator().manual_seed(2)
    for size in (1e-1, 1e-2, 1e-3):
        for vector in [*found.eigenvectors.T, *torch.randn(20, 48, generator=generator, dtype=torch.float64)]:
            step = size * torch.outer(vector, vector) / vector.square().sum()
            assert min(objective(found.low_rank + step), objective(found.low_rank - step)) > best - 1e-6
        for _ in range(20):
            i, j = torch.randint(48, (2,), generator=generator).tolist()
            step = torch.zeros(48, 48, dtype=torch.float64)
            step[i, j] = step[j, i] = size
            assert min(objective(found.low_rank + step), objective(found.low_rank - step)) > best - 1e-6


def test_result_scales_with_the_matrix() -> None:
    matrix = falling_spectrum(32, 1.0)
    one, small = robust_pca(matrix, 0.2, 500), robust_pca(1e-9 * matrix, 0.2, 500)
    assert (one.iterations, one.rank) == (small.iterations, small.rank)
    assert torch.allclose(1e-9 * one.low_rank, small.low_rank, rtol=1e-9, atol=1e-18)


def test_too_few_iterations_are_said() -> None:
    found = robust_pca(falling_spectrum(32, 1.0), 0.2, 3)
    assert not found.converged and found.iterations == 3 and max(found.primal, found.dual) > 1e-7


@pytest.mark.parametrize("matrix", [torch.zeros(4, 4), torch.full((4, 4), math.nan), torch.ones(4, 3), torch.arange(16.0).view(4, 4)])
def test_bad_matrices_are_refused(matrix: Tensor) -> None:
    with pytest.raises(ValueError, match="expected a"):
        robust_pca(matrix, 0.1, 10)


def test_rank_by_energy_by_hand() -> None:
    values = torch.tensor([6.0, -3.0, 0.9, 0.1])
    assert [rank_by_energy(values, energy) for energy in (0.6, 0.61, 0.9, 0.99, 1.0)] == [1, 2, 2, 3, 4]
    assert rank_by_energy(values, 0.99, cap=2) == 2
    assert rank_by_energy(torch.zeros(0), 0.99) == 0
