"""Motion codes against scipy's generalised eigenproblem and a toy generator whose separating directions are known."""

import dataclasses
import json
import math
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from mvgan.config import Codes, InputError, Run
from mvgan.motion.codes import (
    edit_ratios,
    equal_edits,
    generalized_codes,
    nullspace_codes,
    nullspace_ranks,
    random_codes,
    reach,
    require_effect,
    strengths,
)
from mvgan.motion.factorize import Sample, combine, factorize_latent
from mvgan.motion.jacobian import pair_grams
from mvgan.motion.rpca import LowRank, robust_pca


torch.set_num_threads(1)
W_DIM = 32
UNIT = torch.eye(W_DIM, dtype=torch.float64)
"""The spread of w that vary alike in all directions."""


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram(d: int, seed: int, power: float = 1.5) -> Tensor:
    q = torch.linalg.qr(normal(d, d, seed=seed)).Q
    return q @ torch.diag(torch.arange(1, d + 1, dtype=torch.float64) ** -power) @ q.T


def exact(matrix: Tensor, rank: int) -> LowRank:
    """A factorization without a sparse part."""
    values, vectors = torch.linalg.eigh(matrix)
    values, vectors = values.flip(0)[:rank], vectors.flip(1)[:, :rank]
    return LowRank((vectors * values) @ vectors.T, torch.zeros_like(matrix), values, vectors, rank, 1, 0.0, 0.0, True)


class Separable:
    """Former = tanh of content and 8 directions of its own, latter likewise with 8 others, all hidden by a rotation of w."""

    def __init__(self, leak: float = 0.0) -> None:
        self.rotation = torch.linalg.qr(normal(W_DIM, W_DIM, seed=10)).Q
        falling = torch.cat([torch.arange(1, 17).double() ** -1, torch.full((16,), 0.3).double()])
        self.former, self.latter = (0.3 * normal(3 * 8 * 8, W_DIM, seed=seed) * falling for seed in (11, 12))
        self.former[:, 24:] *= leak
        self.latter[:, 16:24] *= leak

    def __call__(self, w: Tensor) -> Tensor:
        x = w @ self.rotation.to(w)
        frames = torch.stack([torch.tanh(x @ m.T.to(w)) for m in (self.former, self.latter)], 1)
        return frames.view(-1, 2, 3, 8, 8)


def assert_orthonormal(codes: Tensor) -> None:
    assert torch.allclose(codes @ codes.T, torch.eye(len(codes), dtype=codes.dtype), atol=1e-10)


def test_nullspace_codes_are_orthogonal_to_the_kept_frame() -> None:
    """Eq. 8, and in the order of eq. 6: the first code is the projection of the first eigenvector."""
    edit, keep = exact(gram(W_DIM, 1), 20), exact(gram(W_DIM, 2), 12)
    codes = nullspace_codes([edit], [keep], 6, [(20, 12)])
    assert_orthonormal(codes)
    assert float((codes @ keep.eigenvectors).abs().max()) < 1e-10
    first = edit.eigenvectors[:, 0] - keep.eigenvectors @ (keep.eigenvectors.T @ edit.eigenvectors[:, 0])
    assert float((codes[0] @ first).abs() / first.norm()) == pytest.approx(1, abs=1e-10)
    assert nullspace_ranks(edit, keep, 6, 1.0) == (20, 12)
    assert nullspace_ranks(edit, exact(gram(W_DIM, 2), 30), 6, 1.0) == (20, 20)


def test_ranks_by_each_rule() -> None:
    """By hand: an energy of 0.9 of 1 + 1/2 + ... is held by fewer than all; numbers hold where there are as many."""

    def factor(rank: int) -> LowRank:
        return exact(gram(W_DIM, 1, power=1.0), rank)

    held = 1 + int((np.cumsum(1 / np.arange(1.0, 21)) < 0.9 * np.sum(1 / np.arange(1.0, 21))).sum())
    assert nullspace_ranks(factor(20), factor(20), 6, 0.9) == nullspace_ranks(factor(20), factor(20), 6, 0.9, "energy") == (held, held)
    assert held < 20
    assert nullspace_ranks(factor(20), factor(12), 6, 0.9, "full") == (20, 12)
    assert nullspace_ranks(factor(20), factor(30), 6, 0.9, "full") == (20, 20)
    assert nullspace_ranks(factor(20), factor(12), 6, 0.9, 9) == (9, 9)
    assert nullspace_ranks(factor(20), factor(12), 6, 0.9, 15) == (15, 12)


@pytest.mark.parametrize(("rank", "found"), [("full", None), (7, 7)])
def test_the_rank_of_the_settings_is_used(rank: str | int, found: int | None) -> None:
    toy, w = Separable(leak=0.1), normal(1, W_DIM, seed=7).float()
    run = toy_run(method="nullspace", rank=rank)
    sample = factorize_latent(pair_grams(toy, w[0], chunk=16), run.codes)
    _, summary = combine([sample], UNIT, run)
    about = summary["nullspace"]["backward"]
    mean = [factor.rank for (factor,) in sample.factors]
    assert (about["rank_edit"], about["rank_keep"]) == ((found, found) if found else (mean[0], min(mean[1], W_DIM - 10)))


def test_random_codes_are_others_each_way_and_can_be_the_method() -> None:
    toy, w = Separable(leak=0.1), normal(1, W_DIM, seed=7).float()
    run = dataclasses.replace(toy_run(method="random"), seed=3)
    sample = factorize_latent(pair_grams(toy, w[0], chunk=16), run.codes)
    tensors, summary = combine([sample], UNIT, run)
    assert torch.equal(tensors["backward"], tensors["random_backward"]) and torch.equal(tensors["forward"], tensors["random_forward"])
    for direction in ("backward", "forward"):
        assert torch.allclose(tensors[direction] @ tensors[direction].T, torch.eye(5), atol=1e-5)
    assert float((tensors["backward"] @ tensors["forward"].T).abs().max()) < 0.9
    again, _ = combine([sample], UNIT, run)
    assert torch.equal(again["forward"], tensors["forward"]) and len(summary["random"]["forward"]["kept"]["by_code"]) == 5


def test_nullspace_codes_that_cannot_be_had_are_refused() -> None:
    edit, keep = exact(gram(W_DIM, 1), 20), exact(gram(W_DIM, 2), 12)
    with pytest.raises(InputError, match=r"gives 5 directions.*--num-codes.*--codes.energy.*--codes.lam"):
        nullspace_codes([edit], [keep], 6, [(5, 12)])
    with pytest.raises(InputError, match=r"only 1 of 20 directions are left.*--codes.energy"):
        nullspace_codes([edit], [exact(gram(W_DIM, 2), 31)], 6, [(20, 31)])  # the case of the released code: all codes are one vector
    with pytest.raises(InputError, match=r"only 0 of 12 directions are left"):
        nullspace_codes([keep], [keep], 6, [(12, 12)])  # all projected norms vanish
    with pytest.raises(InputError, match=r"no low-rank part"):
        nullspace_codes([edit], [keep], 6, [(20, 0)])


def spread_of_w() -> Tensor:
    """A lower triangular factor of a covariance whose spectrum falls."""
    return torch.linalg.cholesky(gram(W_DIM, 5) + 1e-3 * UNIT)


@pytest.mark.parametrize("epsilon", [0.1, 0.001])
@pytest.mark.parametrize("spread", [UNIT, spread_of_w()], ids=["alike in all directions", "more in some"])
def test_generalized_codes_equal_scipy(epsilon: float, spread: Tensor) -> None:
    """Reference: in w itself the floor is the inverse covariance, by the mean change of the kept frame a direction of mapped w gives."""
    edit, keep = gram(W_DIM, 1), gram(W_DIM, 2)
    codes = generalized_codes(edit, keep, spread, 6, epsilon)
    assert_orthonormal(codes)
    covariance = (spread @ spread.T).numpy()
    floored = keep.numpy() + epsilon * np.trace(keep.numpy() @ covariance) / W_DIM * np.linalg.inv(covariance)
    _, vectors = scipy.linalg.eigh(edit.numpy(), floored)
    for m in range(1, 7):  # the span of the first m codes is that of scipy's first m solutions
        largest_angle = scipy.linalg.subspace_angles(vectors[:, -m:], codes[:m].T.numpy())[0]
        assert largest_angle < 1e-6
    quotient = strengths(codes, edit) / strengths(codes, torch.from_numpy(floored))
    directions = normal(1000, W_DIM, seed=3)
    assert float(quotient[0]) > float((strengths(directions, edit) / strengths(directions, torch.from_numpy(floored))).max())


def test_a_higher_floor_gives_codes_of_more_reach() -> None:
    edit, keep, spread = gram(W_DIM, 1), gram(W_DIM, 2), spread_of_w()
    reaches = [reach(generalized_codes(edit, keep, spread, 6, epsilon), edit, spread) for epsilon in (0.001, 0.03, 1.0)]
    assert reaches[0] < reaches[1] < reaches[2]


def test_reach_is_the_change_by_w_drawn_along_the_codes() -> None:
    """Reference: w of that covariance, given what is orthogonal to the codes, by the formula of a conditional normal distribution."""
    matrix, spread, codes = gram(W_DIM, 1), spread_of_w(), random_codes(4, W_DIM, 3)
    whole = torch.linalg.qr(torch.cat([codes, random_codes(W_DIM, W_DIM, 4)]).T).Q.T
    others = whole[4:]
    covariance = spread @ spread.T
    across = codes @ covariance @ others.T
    given = codes @ covariance @ codes.T - across @ torch.linalg.inv(others @ covariance @ others.T) @ across.T
    assert reach(codes, matrix, spread) == pytest.approx(float((given * (codes @ matrix @ codes.T)).sum()), rel=1e-8)
    drawn = np.random.default_rng(0).multivariate_normal(np.zeros(4), given.numpy(), 100_000) @ codes.numpy()
    assert reach(codes, matrix, spread) == pytest.approx(np.einsum("ni,ij,nj->n", drawn, matrix.numpy(), drawn).mean(), rel=0.02)


def test_generalized_codes_that_edit_nothing_are_refused() -> None:
    flat = exact(gram(W_DIM, 1), 4).low_rank
    with pytest.raises(InputError, match=r"edit nothing.*--num-codes.*--latents"):
        generalized_codes(flat, gram(W_DIM, 2), UNIT, 6, 0.1)
    with pytest.raises(InputError, match=r"edit nothing"):
        require_effect(torch.linalg.eigh(flat).eigenvectors.T[:2], flat)
    with pytest.raises(InputError, match=r"--codes.epsilon"):
        generalized_codes(flat, gram(W_DIM, 2), UNIT, 2, 0.0)
    with pytest.raises(InputError, match=r"zero or not positive"):
        generalized_codes(flat, torch.zeros_like(flat), UNIT, 2, 0.1)


@pytest.mark.parametrize("edited", [0, 1])
def test_edit_ratio_of_known_directions_is_huge_and_of_random_ones_about_one(edited: int) -> None:
    toy, w = Separable(), normal(8, W_DIM, seed=4).float()
    grams = torch.stack([pair_grams(toy, x, chunk=16) for x in w]).mean(0)
    codes = generalized_codes(grams[edited], grams[1 - edited], UNIT, 5, 0.1)
    fresh = normal(6, W_DIM, seed=5).float()
    assert float(edit_ratios(toy, fresh, codes, edited).min()) > 500
    known = torch.eye(W_DIM)[16:24] if edited == 0 else torch.eye(W_DIM)[24:]
    assert float((codes.float() @ toy.rotation.float() @ known.T).norm(dim=1).min()) > 0.999
    assert 0.6 < float(edit_ratios(toy, fresh, random_codes(5, W_DIM, 0), edited).median()) < 1.7


def test_edits_are_of_equal_strength_and_their_figures_those_of_the_frames() -> None:
    toy, w = Separable(leak=0.3), normal(5, W_DIM, seed=6)
    codes = random_codes(3, W_DIM, 1)
    edits = equal_edits(toy, w, codes, 1, target_mse=3e-4, batch=4)
    assert float((edits.edited / 3e-4 - 1).abs().max()) <= 0.01
    assert torch.equal(edits.alpha.sign(), torch.tensor([1.0, -1, 1, -1, 1]).double().expand(3, 5))
    for c in range(3):
        change = (toy(w + edits.alpha[c][:, None] * codes[c]) - toy(w)).square().mean((2, 3, 4))
        assert torch.allclose(change, torch.stack([edits.kept[c], edits.edited[c]], 1), rtol=1e-9)
        assert float(edits.ratios[c]) == pytest.approx(float(change[:, 1].sum() / change[:, 0].sum()))


def test_an_edit_finds_its_strength_where_the_change_is_not_quadratic() -> None:
    """A dead zone, then a steep rise and saturation: the bracket must hold."""

    def steep(w: Tensor) -> Tensor:
        level = torch.sigmoid(40 * (w[:, 0].abs() - 3)) - torch.sigmoid(torch.tensor(-120.0))
        return level.view(-1, 1, 1, 1, 1).expand(-1, 2, 3, 2, 2)

    edits = equal_edits(steep, torch.zeros(2, 4), torch.eye(4)[:1], 0)
    assert float((edits.edited / 3e-4 - 1).abs().max()) <= 0.01
    assert torch.allclose(edits.ratios, torch.ones(1, dtype=torch.float64))
    with pytest.raises(InputError, match=r"code 1 does not change frame 0"):
        equal_edits(steep, torch.zeros(2, 4), torch.eye(4)[:2], 0)


def toy_run(**codes: object) -> Run:
    return dataclasses.replace(Run(), num_codes=5, latents=4, codes=dataclasses.replace(Codes(lam=1 / math.sqrt(W_DIM)), **codes))


def counted_alike(grams: np.ndarray) -> np.ndarray:
    """Mean of Grams [latents, 2, d, d] of which those of each latent are brought to the same trace of both frames together."""
    traces = np.trace(grams, axis1=2, axis2=3).sum(1)
    return np.mean([pair * (traces.mean() / trace) for pair, trace in zip(grams, traces, strict=True)], 0)


def test_no_latent_outweighs_the_others() -> None:
    """One whose Grams are a thousand times as large changes nothing but the size of the mean."""
    run = toy_run()
    grams = torch.stack([torch.stack([gram(W_DIM, 2 * seed), gram(W_DIM, 2 * seed + 1)]) for seed in range(4)])
    louder = grams * torch.tensor([1, 1, 1000, 1])[:, None, None, None]
    (plain, _), (other, _) = (combine([factorize_latent(each, run.codes) for each in found], UNIT, run) for found in (grams, louder))
    assert np.allclose(other["mean_grams"] / other["mean_grams"].norm(), plain["mean_grams"] / plain["mean_grams"].norm(), rtol=1e-9)
    torch.testing.assert_close(other["generalized_backward"], plain["generalized_backward"], rtol=0, atol=1e-5)
    assert not np.allclose(louder.mean(0) / louder.mean(0).norm(), plain["mean_grams"] / plain["mean_grams"].norm(), rtol=1e-2)


def test_combine_gives_tensors_and_json_of_both_methods() -> None:
    toy, w = Separable(leak=0.1), normal(4, W_DIM, seed=7).float()
    run = toy_run()
    samples = [factorize_latent(pair_grams(toy, x, chunk=16), run.codes) for x in w]
    tensors, summary = combine(samples, UNIT, run)
    json.dumps(summary, allow_nan=False)
    assert set(tensors) == {"mean_grams", "backward", "forward"} | {
        f"{m}_{d}" for m in ("generalized", "nullspace", "random") for d in ("backward", "forward")
    }
    assert np.allclose(tensors["mean_grams"], counted_alike(np.stack([s.grams.numpy() for s in samples])), rtol=1e-12)
    assert torch.equal(tensors["backward"], tensors["generalized_backward"]) and tensors["backward"].shape == (5, W_DIM)
    fresh = normal(6, W_DIM, seed=8).float()
    for method, least in (("generalized", 20), ("nullspace", 5)):
        assert float(edit_ratios(toy, fresh, tensors[f"{method}_backward"], 0).median()) > least
        assert float(edit_ratios(toy, fresh, tensors[f"{method}_forward"], 1).median()) > least
    assert len(summary["samples"]) == 4
    former = summary["mean"]["former"]
    assert len(former["spectrum"]) == W_DIM and former["rank"] == len(former["low_rank_spectrum"]) and former["converged"]
    assert len(summary["generalized"]["backward"]["edited"]["by_code"]) == 5 and summary["nullspace"]["forward"]["rank_edit"] >= 5


def test_combine_does_not_hold_the_samples_together() -> None:
    """By weak references to each of twelve: the first, the one at hand, and the one before it here and there; and the same codes."""
    run, there, most = toy_run(), [], 0
    grams = torch.stack([torch.stack([gram(W_DIM, 2 * seed), gram(W_DIM, 2 * seed + 1)]) for seed in range(12)])

    def one_by_one() -> Iterator[Sample]:
        nonlocal most
        for each in grams:
            sample = factorize_latent(each, run.codes)
            there.append(weakref.ref(sample))
            most = max(most, sum(reference() is not None for reference in there))
            yield sample

    tensors, summary = combine(one_by_one(), UNIT, run)
    assert len(there) == len(summary["samples"]) == 12 and most <= 3
    assert np.allclose(tensors["mean_grams"], counted_alike(grams.numpy()), rtol=1e-12)


def test_combine_by_the_first_sample_alone() -> None:
    toy, w = Separable(), normal(2, W_DIM, seed=7).float()
    run = toy_run(source="sample", method="nullspace")
    samples = [factorize_latent(pair_grams(toy, x, chunk=16), run.codes) for x in w]
    tensors, _ = combine(samples, UNIT, run)
    alone, _ = combine(samples[:1], UNIT, run)
    assert torch.equal(tensors["forward"], alone["forward"]) and torch.equal(tensors["forward"], tensors["nullspace_forward"])


def test_combine_says_why_a_method_gives_no_codes() -> None:
    """At lambda = 1/60 and w_dim 32 everything is sparse (60 > 32), so eq. 8 has nothing to work with."""
    toy, w = Separable(), normal(2, W_DIM, seed=7).float()
    run = toy_run(lam=1 / 60)
    samples = [factorize_latent(pair_grams(toy, x, chunk=16), run.codes) for x in w]
    tensors, summary = combine(samples, UNIT, run)
    assert "nullspace_backward" not in tensors and "--codes.lam" in summary["nullspace"]["error"]
    with pytest.raises(InputError, match=r"--codes.lam"):
        combine(samples, UNIT, toy_run(lam=1 / 60, method="nullspace"))


@pytest.mark.parametrize(("value", "word"), [(0.0, "zero"), (math.nan, "not finite")])
def test_a_generator_that_diverged_is_refused(value: float, word: str) -> None:
    with pytest.raises(InputError, match=rf"former frame is {word}.*--codes.select best"):
        factorize_latent(torch.full((2, 4, 4), value), Codes())


def test_low_rank_parts_of_robust_pca_feed_eq_8() -> None:
    """The real chain: eigenvectors of the ADMM result, ranks by energy, codes away from the kept frame."""
    lam = 1 / math.sqrt(64)
    edit, keep = robust_pca(gram(64, 1, power=1.0), lam, 1000), robust_pca(gram(64, 2, power=1.0), lam, 1000)
    ranks = nullspace_ranks(edit, keep, 8, 0.99)
    codes = nullspace_codes([edit], [keep], 8, [ranks])
    assert_orthonormal(codes)
    assert float((codes @ keep.eigenvectors[:, : ranks[1]]).abs().max()) < 1e-10
