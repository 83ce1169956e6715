"""A slow solver of robust PCA of symmetric matrices to test others by: Douglas-Rachford splitting, in numpy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """The minimum it ended at."""

    low_rank: Matrix
    rank: int
    objective: float
    iterations: int


def spectrum_gram(values: Matrix, seed: int = 0) -> Matrix:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))[0]
    matrix = (q * values) @ q.T
    return (matrix + matrix.T) / 2


def objective(low_rank: Matrix, matrix: Matrix, lam: float) -> float:
    """|L|_* + lam |M - L|_1."""
    return float(np.linalg.svd(low_rank, compute_uv=False).sum() + lam * np.abs(matrix - low_rank).sum())


def solve(matrix: Matrix, lam: float, tol: float = 1e-10, most: int = 20_000) -> Reference:
    """min |L|_* + lam |M - L|_1 over L (Combettes and Pesquet 2011, algorithm 10.15), to a step of `tol` relative to M.

    z <- z + prox_g(2 x - z) - x with x = prox_f(z), f the nuclear norm and g the rest, both by soft thresholding.
    """
    size = 2 * np.abs(matrix).mean()
    z, x, rank = matrix.copy(), matrix, 0
    for iteration in range(1, most + 1):
        values, vectors = np.linalg.eigh(z)
        rank = int((np.abs(values) > size).sum())
        x = (vectors * np.sign(values) * np.maximum(np.abs(values) - size, 0)) @ vectors.T
        rest = matrix - 2 * x + z
        step = matrix - np.sign(rest) * np.maximum(np.abs(rest) - lam * size, 0) - x
        z = z + step
        if np.linalg.norm(step) <= tol * np.linalg.norm(matrix):
            return Reference(x, rank, objective(x, matrix, lam), iteration)
    raise AssertionError(f"the reference did not converge in {most} iterations")
