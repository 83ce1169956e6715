"""Stage 2 as plain functions: factorize one latent, then combine all of them into codes.safetensors and codes.json."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mvgan.config import ANOTHER_NAME, Codes, InputError, Run
from mvgan.motion import official
from mvgan.motion.codes import (
    generalized_codes,
    nullspace_codes,
    nullspace_ranks,
    random_codes,
    random_layers,
    reach,
    require_effect,
    strengths,
)
from mvgan.motion.rpca import LowRank, robust_pca
from mvgan.nets.space import blocks, in_layers, layers_of


FRAMES = ("former", "latter")
DIRECTIONS = {"backward": 0, "forward": 1}
"""Which frame the codes of a direction edit (eq. 2)."""

METHODS = ("generalized", "nullspace", "official", "random")
"""Every way to codes. Each run takes all to compare them, but for those ON_REQUEST."""

ON_REQUEST = {"w": {"official"}, "w+": {"official", "nullspace"}}
"""Methods that are taken only where a run asks for them, as they take minutes: in W+ eq. 8 needs the factorizations of each layer."""


@dataclass(frozen=True)
class Sample:
    """What one latent gives: its Grams and their factorizations, former frame first."""

    grams: Tensor
    """float64 [2, w_dim, w_dim] on the CPU, in W+ of each layer [2, num_ws, w_dim, w_dim]."""
    factors: tuple[tuple[LowRank, ...], tuple[LowRank, ...]]
    """One in W, one per layer in W+; none where they are not needed."""


def needs_factors(codes: Codes) -> bool:
    """Whether Grams are factorized: always in W, in W+ for the method nullspace alone, as there are as many as layers."""
    return codes.space == "w" or codes.method == "nullspace"


def factorize_latent(grams: Tensor, codes: Codes) -> Sample:
    """Low-rank factorization of the Grams [2, w_dim, w_dim] of one latent, or of their mean over latents; in W+ of each layer's.

    Raises InputError when a Gram is zero or not finite, which a generator that has diverged gives.
    """
    grams = grams.detach().cpu().double()
    for frame, gram in zip(FRAMES, grams, strict=True):
        if not gram.isfinite().all() or not gram.any():
            raise InputError(
                f"the Gram matrix of the {frame} frame is {'zero' if gram.isfinite().all() else 'not finite'}: the generator of stage 1"
                f" has diverged or collapsed; take another commit by --codes.select best, or train stage 1 again {ANOTHER_NAME}"
            )
    former, latter = (tuple(_low_rank(block, codes) for block in blocks(gram)) if needs_factors(codes) else () for gram in grams)
    return Sample(grams, (former, latter))


def _low_rank(gram: Tensor, codes: Codes) -> LowRank:
    """Its factorization; that of a layer which changes nothing has a low-rank part of rank 0."""
    if not gram.any():
        return LowRank(gram, gram, gram.new_zeros(0), gram.new_zeros(len(gram), 0), 0, 0, 0.0, 0.0, True)
    return robust_pca(gram, codes.lam, codes.max_iterations, codes.tolerance)


@dataclass
class _Folded:
    """What is needed of samples that went by one at a time."""

    first: Sample
    last: Sample
    total: Tensor
    """Sum of their Grams, those of each latent over its `_scale`."""
    scales: list[float] = field(default_factory=list)
    described: list[dict[str, Any]] = field(default_factory=list)
    factors: int = 0
    """How many factorizations they have."""
    open_ends: list[float] = field(default_factory=list)
    """The larger residual of each factorization that did not converge."""

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> "_Folded":
        """The fold of `samples`, of which at most three are held: the first one, the one at hand and the one before."""
        folded: _Folded | None = None
        for sample in samples:
            folded = folded or cls(sample, sample, torch.zeros_like(sample.grams))
            folded.scales.append(_scale(sample.grams))
            folded.last, folded.total = sample, folded.total + sample.grams / folded.scales[-1]
            folded.described.append(_describe(sample))
            folded.count(sample)
        assert folded is not None
        return folded

    def mean(self) -> Tensor:
        """Mean of the Grams, to which each latent has given as much as any other; as large as the plain mean."""
        return self.total * (math.fsum(self.scales) / len(self.scales) ** 2)

    def count(self, sample: Sample) -> None:
        """Count the factorizations of `sample`, or of the mean."""
        factors = [factor for layers in sample.factors for factor in layers]
        self.factors += len(factors)
        self.open_ends += [max(factor.primal, factor.dual) for factor in factors if not factor.converged]


def _scale(grams: Tensor) -> float:
    """How much a latent's frames change: mean trace of its Grams [2, ..., w_dim, w_dim] of both frames.

    Between latents it differs by a factor of ten, and the few with the largest would be all that a plain mean knows.
    """
    return float(grams.diagonal(dim1=-2, dim2=-1).sum()) / len(grams)


def combine(samples: Iterable[Sample], spread: Tensor, run: Run) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The motion codes of a run from the samples of all its latents, in seed order, and the `spread` of mapped w.

    samples: at least one; not held together.
    spread: lower triangular factor of their covariance, float64 [w_dim, w_dim] (`LatentDistribution.factor`).
    Returns the tensors of codes.safetensors: `backward` and `forward` float32 [num_codes, w_dim] by the method of the run,
    those of all methods as `generalized_backward`, `nullspace_forward` and so on, and `mean_grams` float64 [2, w_dim, w_dim], to which
    the Grams of each latent count alike; in W+ [num_codes, num_ws * w_dim] and [2, num_ws, w_dim, w_dim]; and the content of codes.json:
    per latent and for the mean the spectra, ranks, iterations and residuals; per method and direction the first-order change of both
    frames (eq. 5) by a unit step along each code, and by all codes as far as w reaches along them, in W+ with the layer of each code, from
    0; and `warnings`, lines for people. Raises InputError when the method of the run gives no codes; why another one gives none is said
    under its name in the JSON.
    """
    folded = _Folded.of(samples)
    mean = factorize_latent(folded.mean(), run.codes)
    folded.count(mean)
    tensors: dict[str, Tensor] = {"mean_grams": mean.grams}
    summary: dict[str, Any] = {
        "method": run.codes.method,
        "source": run.codes.source,
        "num_codes": run.num_codes,
        "samples": folded.described,
        "mean": _describe(mean),
    }
    for method in METHODS:
        if method != run.codes.method and method in ON_REQUEST[run.codes.space]:
            continue
        one = folded.last if method == "official" else folded.first
        try:
            found, summary[method] = _codes(mean if run.codes.source == "mean" else one, spread, method, run)
        except InputError as error:
            if method == run.codes.method:
                raise
            summary[method] = {"error": str(error)}
            continue
        for direction, codes in found.items():
            tensors[f"{method}_{direction}"] = codes.float()
    summary["warnings"] = _unconverged(folded, summary, run.codes)
    for direction in DIRECTIONS:
        tensors[direction] = tensors[f"{run.codes.method}_{direction}"].clone()
    return tensors, summary


def _codes(source: Sample, spread: Tensor, method: str, run: Run) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Codes of one method in both directions, and what to write about them."""
    # The released code makes the factorization of each frame twice, for each direction anew.
    released = [official.factorize(gram, run.codes.lam) for gram in source.grams] if method == "official" else []
    found: dict[str, Tensor] = {}
    about: dict[str, Any] = {}
    for direction, edit in DIRECTIONS.items():
        gram_edit, gram_keep = source.grams[edit], source.grams[1 - edit]
        notes: dict[str, Any] = {}
        if method == "generalized":
            codes = generalized_codes(gram_edit, gram_keep, spread, run.num_codes, run.codes.epsilon)
        elif method == "nullspace":
            factors = source.factors[edit], source.factors[1 - edit]
            ranks = [nullspace_ranks(*layer, run.num_codes, run.codes.energy, run.codes.rank) for layer in zip(*factors, strict=True)]
            codes = nullspace_codes(*factors, run.num_codes, ranks)
            notes = dict(zip(("rank_edit", "rank_keep"), map(sum, zip(*ranks, strict=True)), strict=True))
        elif method == "official":
            codes = official.official_codes(released[edit], released[1 - edit], run.num_codes)
            notes = official.describe(released[edit], released[1 - edit])
        else:
            # Other codes each way: the same ones would let every second step undo the one before.
            seed = (2 * run.seed + edit) % 2**63
            codes = random_codes(run.num_codes, len(spread), seed)
            codes = in_layers(codes, random_layers(run.num_codes, gram_edit, seed), len(blocks(gram_edit)))
        require_effect(codes, gram_edit)
        if run.codes.space == "w+":
            notes["layers"] = layers_of(codes, len(spread)).tolist()
        found[direction] = codes
        about[direction] = notes | {
            name: {"by_code": strengths(codes, gram).tolist(), "within_reach": reach(codes, gram, spread)}
            for name, gram in (("edited", gram_edit), ("kept", gram_keep))
        }
    return found, about


def _describe(sample: Sample) -> dict[str, Any]:
    """Spectra, largest first, and how the factorization ended, of both frames: in W+ of all layers together, as of one matrix of blocks."""
    return {
        frame: {"spectrum": torch.linalg.eigvalsh(gram).flatten().sort(descending=True).values.tolist()}
        | (_ended(factors, gram) if factors else {})
        for frame, gram, factors in zip(FRAMES, sample.grams, sample.factors, strict=True)
    }


def _ended(factors: Sequence[LowRank], gram: Tensor) -> dict[str, Any]:
    eigenvalues = torch.cat([factor.eigenvalues for factor in factors])
    return {
        "low_rank_spectrum": eigenvalues[eigenvalues.abs().argsort(descending=True, stable=True)].tolist(),
        "rank": sum(factor.rank for factor in factors),
        "sparse_share": math.hypot(*(float(factor.sparse.norm()) for factor in factors)) / float(gram.norm()),
        "iterations": max(factor.iterations for factor in factors),
        "primal": max(factor.primal for factor in factors),
        "dual": max(factor.dual for factor in factors),
        "converged": all(factor.converged for factor in factors),
    }


def _unconverged(folded: _Folded, summary: dict[str, Any], codes: Codes) -> list[str]:
    """Lines on factorizations that did not converge."""
    lines = []
    if folded.open_ends:
        lines.append(
            f"{len(folded.open_ends)} of {folded.factors} low-rank factorizations did not converge in {codes.max_iterations} iterations"
            f" (worst residual {max(folded.open_ends):.1e}); raise --codes.max-iterations"
        )
    if codes.method == "official" and not summary["official"]["backward"]["converged"]:
        ended = " and ".join(map(str, summary["official"]["backward"]["iterations"]))
        lines.append(f"the released factorizations of the two frames did not both converge; they ended after {ended} iterations")
    return lines
