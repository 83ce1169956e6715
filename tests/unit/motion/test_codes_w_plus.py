"""Codes of W+ against scipy on one large matrix with a block per layer, and by hand in single layers."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from mvgan.config import Codes, InputError, Run
from mvgan.motion.codes import generalized_codes, nullspace_codes, random_layers, reach, require_effect, strengths
from mvgan.motion.factorize import combine, factorize_latent
from mvgan.motion.rpca import robust_pca
from mvgan.nets.space import layers_of
from tests.unit.motion.test_codes import assert_orthonormal, exact, gram


W_DIM, LAYERS = 16, 4
D = W_DIM * LAYERS


def grams(seed: int) -> Tensor:
    """Of layers, one much weaker than the others: [LAYERS, W_DIM, W_DIM]."""
    return torch.stack([size * gram(W_DIM, seed + layer) for layer, size in enumerate((1.0, 0.5, 2.0, 0.01))])


def dense(layers: Tensor) -> Tensor:
    """The whole matrix [D, D]."""
    return torch.from_numpy(scipy.linalg.block_diag(*layers.numpy()))


SPREAD = torch.linalg.cholesky(gram(W_DIM, 50) + 1e-3 * torch.eye(W_DIM, dtype=torch.float64))
EDIT, KEEP = grams(1), grams(11)


def own_layer(codes: Tensor) -> Tensor:
    """Whether each of `codes` is exactly zero but in one layer."""
    return (codes.view(-1, LAYERS, W_DIM).abs().sum(2) > 0).sum(1) == 1


@pytest.mark.parametrize("epsilon", [0.1, 0.001])
def test_generalized_codes_solve_the_large_problem(epsilon: float) -> None:
    """Reference: scipy's solutions of the D x D problem, in their order; so the best of all layers are taken."""
    codes = generalized_codes(EDIT, KEEP, SPREAD, 9, epsilon)
    assert_orthonormal(codes)
    assert own_layer(codes).all() and len(set(layers_of(codes, W_DIM).tolist())) > 1
    spread = dense(SPREAD.expand(LAYERS, -1, -1)).numpy()
    covariance = spread @ spread.T
    floored = dense(KEEP).numpy() + epsilon * np.trace(dense(KEEP).numpy() @ covariance) / D * np.linalg.inv(covariance)
    _, vectors = scipy.linalg.eigh(dense(EDIT).numpy(), floored)
    for m in range(1, 10):
        assert scipy.linalg.subspace_angles(vectors[:, -m:], codes[:m].T.numpy())[0] < 1e-6


def test_layers_that_change_nothing_are_passed_over() -> None:
    """Half of the layers change neither frame; codes fail only when the others give too few."""
    still = torch.tensor([1.0, 0, 1, 0], dtype=torch.float64)[:, None, None]
    codes = generalized_codes(EDIT * still, KEEP * still, SPREAD, 9, 0.1)
    assert set(layers_of(codes, W_DIM).tolist()) <= {0, 2}
    with pytest.raises(InputError, match="edit nothing"):
        generalized_codes(EDIT * still, KEEP * still, SPREAD, 2 * W_DIM + 1, 0.1)
    with pytest.raises(InputError, match="w has only 64 dimensions"):
        generalized_codes(EDIT, KEEP, SPREAD, D + 1, 0.1)
    layers = random_layers(200, EDIT * still, seed=0)
    assert set(layers.tolist()) == {0, 2} and not torch.equal(layers, random_layers(200, EDIT * still, seed=1))
    assert set(random_layers(200, EDIT, seed=0).tolist()) == {0, 1, 2, 3} and set(random_layers(5, EDIT[0], seed=0).tolist()) == {0}


def test_strength_and_reach_are_those_of_the_large_matrix() -> None:
    """Reference: the same functions on D x D matrices, whose own tests are against formulas."""
    codes, spread = generalized_codes(EDIT, KEEP, SPREAD, 9, 0.1), dense(SPREAD.expand(LAYERS, -1, -1))
    for matrix in (EDIT, KEEP):
        torch.testing.assert_close(strengths(codes, matrix), strengths(codes, dense(matrix)))
        assert reach(codes, matrix, SPREAD) == pytest.approx(reach(codes, dense(matrix), spread), rel=1e-9)
    weak = codes.clone()
    weak[4] = 1e-3 * weak[4]
    with pytest.raises(InputError, match=r"codes \[4\] of 9 edit nothing"):
        require_effect(weak, EDIT)


def test_nullspace_codes_are_those_of_each_layer_by_eigenvalue() -> None:
    """Reference: eq. 8 in each layer by scipy's null space, all vectors in the order of the edited frame's eigenvalues."""
    edit, keep = [exact(g, 12) for g in EDIT], [exact(g, 6) for g in KEEP]
    codes = nullspace_codes(edit, keep, 10, [(12, 6)] * LAYERS)
    assert_orthonormal(codes)
    order = sorted(((-float(value), layer, n) for layer in range(LAYERS) for n, value in enumerate(edit[layer].eigenvalues)))[:10]
    assert layers_of(codes, W_DIM).tolist() == [layer for _, layer, _ in order] and own_layer(codes).all()
    for code, (_, layer, n) in zip(codes, order, strict=True):
        null = scipy.linalg.null_space(keep[layer].eigenvectors.T.numpy())
        projected = null @ null.T @ edit[layer].eigenvectors[:, : n + 1].numpy()
        own = code.view(LAYERS, W_DIM)[layer].numpy()
        assert np.linalg.norm(own - projected @ np.linalg.lstsq(projected, own, rcond=None)[0]) < 1e-9
        assert np.abs(own @ projected[:, :n]).max(initial=0) < 1e-9


def test_layers_without_room_give_no_nullspace_codes() -> None:
    """One whose kept frame has no low-rank part, one without an edited one; fewer than asked for are refused."""
    edit, keep = [exact(g, 12) for g in EDIT], [exact(g, 6) for g in KEEP]
    ranks = [(12, 0), (0, 6), (12, 6), (12, 6)]
    assert set(layers_of(nullspace_codes(edit, keep, 12, ranks), W_DIM).tolist()) == {2, 3}
    with pytest.raises(InputError, match=r"only 20 of 36 directions are left"):  # 16 - 6 dimensions of each of two layers
        nullspace_codes(edit, keep, 21, ranks)
    with pytest.raises(InputError, match=r"no low-rank part"):
        nullspace_codes(edit, keep, 12, [(12, 0)] * LAYERS)


def settings(**codes: object) -> Run:
    return dataclasses.replace(Run(), num_codes=5, codes=Codes(lam=1 / math.sqrt(W_DIM), space="w+", **codes))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["generalized", "nullspace", "random"])
def test_combine(method: str) -> None:
    """Against the functions on the mean Grams; low-rank parts are there only where eq. 8 is the method."""
    run, one, other = settings(method=method), torch.stack([EDIT, KEEP]), torch.stack([grams(21), grams(31)])
    one[:, 3] = 0  # a layer that changes nothing, at one latent
    tensors, summary = combine([factorize_latent(found, run.codes) for found in (one, other)], SPREAD, run)
    sizes = [float(torch.einsum("fljj->", found)) for found in (one, other)]  # of both frames and all layers
    mean = (one / sizes[0] + other / sizes[1]) * sum(sizes) / 4
    torch.testing.assert_close(tensors["mean_grams"], mean)
    for direction, edit in (("backward", 0), ("forward", 1)):
        codes, about = tensors[direction], summary[method][direction]
        assert codes.shape == (5, D) and own_layer(codes).all() and torch.equal(codes, tensors[f"{method}_{direction}"])
        assert about["layers"] == layers_of(codes, W_DIM).tolist()
        expected = torch.einsum("ni,ij,nj->n", codes.double(), dense(mean[edit]), codes.double())
        np.testing.assert_allclose(about["edited"]["by_code"], expected.numpy(), rtol=1e-5)
    torch.testing.assert_close(
        tensors["generalized_forward"].double(), generalized_codes(mean[1], mean[0], SPREAD, 5, run.codes.epsilon), rtol=0, atol=1e-6
    )
    former = summary["mean"]["former"]
    np.testing.assert_allclose(former["spectrum"], scipy.linalg.eigvalsh(dense(mean[0]).numpy())[::-1], rtol=0, atol=1e-12)
    assert ("nullspace" in summary) == ("rank" in former) == (method == "nullspace")
    if method == "nullspace":
        parts = [robust_pca(layer, run.codes.lam, 1000) for layer in mean[0]]
        assert former["rank"] == sum(part.rank for part in parts) == len(former["low_rank_spectrum"])
        share = dense(torch.stack([part.sparse for part in parts])).norm() / dense(mean[0]).norm()
        assert former["sparse_share"] == pytest.approx(float(share), rel=1e-9) and former["converged"]
        assert summary["samples"][0]["former"]["rank"] > 0


def test_a_generator_that_changes_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="former frame is zero"):
        factorize_latent(torch.zeros(2, LAYERS, W_DIM, W_DIM), settings().codes)
    with pytest.raises(InputError, match="latter frame is not finite"):
        factorize_latent(torch.stack([EDIT, KEEP * math.nan]), settings().codes)
