"""Motion codes: directions in w that edit one frame of a pair and leave the other alone (eq. 2 and 6-8).

"Edit" is the frame that a code shall change and "keep" the other one: backward codes edit the former frame (0) and keep the
latter (1), forward codes the reverse. All codes are orthonormal rows [num_codes, w_dim], the best first, and every way that
they could be useless (too few, one vector, without effect) is an InputError that names the setting to change. Codes of W+ are rows
[num_codes, num_ws * w_dim] that act in one layer each (`mvgan.nets.space`), the best of all layers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mvgan.config import ANOTHER_NAME, InputError, RankRule
from mvgan.motion.jacobian import Synthesize
from mvgan.motion.rpca import LowRank, rank_by_energy
from mvgan.nets.space import blocks, by_layer, in_layers, in_space_of, layers_of


MIN_NORM = 1e-3
"""A unit vector of which less is left by a projection counts as removed by it."""

MIN_STRENGTH = 1e-4
"""A code edits nothing when its mean squared change is below this share of the mean eigenvalue of the edited Gram."""

SEARCH_STEPS = 40
"""Most steps of the search for the strength of an edit; 4 or 5 are usual."""

SEARCH_TOLERANCE = 0.01
"""How near an edit comes to its target mean squared difference, relative."""


def nullspace_ranks(edit: LowRank, keep: LowRank, num_codes: int, energy: float, rank: RankRule = "energy") -> tuple[int, int]:
    """r_a and r_b of eq. 7 by the rule `rank`: what holds `energy` of each low-rank spectrum, all of it, or a number at most.

    r_b is capped so that the null space of the kept frame has room for twice the codes.
    """
    room = max(len(keep.low_rank) - 2 * num_codes, 0)
    if rank == "energy":
        return rank_by_energy(edit.eigenvalues, energy), rank_by_energy(keep.eigenvalues, energy, cap=room)
    most = edit.rank + keep.rank if rank == "full" else rank
    return min(edit.rank, most), min(keep.rank, most, room)


def nullspace_codes(edit: Sequence[LowRank], keep: Sequence[LowRank], num_codes: int, ranks: Sequence[tuple[int, int]]) -> Tensor:
    """Codes [num_codes, w_dim] of eq. 8: p = (I - V_B1 V_B1^T) v_a, float64.

    v_a are the first r_a eigenvectors of the edited frame in their order, V_B1 the first r_b of the kept one; `ranks` are r_a and r_b.
    Each p is made a unit vector orthogonal to the codes before it; one that vanishes in either step is passed over. `edit`, `keep` and
    `ranks` have one entry in W. In W+ they have one per layer, eigenvectors of all layers are taken by their eigenvalues, and a layer
    whose kept frame has no low-rank part gives none. Raises InputError when fewer than `num_codes` are left, or when the kept frame has
    no low-rank part to avoid.
    """
    w_dim = len(edit[0].low_rank)
    rank_edit, rank_keep = (sum(found) for found in zip(*ranks, strict=True))
    lam_hint = f"raise --codes.lam (towards 1/sqrt(w_dim) = {1 / math.sqrt(w_dim):.3g})"
    if rank_edit < num_codes:
        raise InputError(
            f"the low-rank part of the edited frame gives {rank_edit} directions, fewer than the {num_codes} codes asked for;"
            f" lower --num-codes, or raise --codes.energy (--codes.rank where it is a number), or {lam_hint}"
        )
    if rank_keep < 1:
        raise InputError(
            f"the kept frame has no low-rank part within the cap, so eq. 8 has nothing to avoid; lower --num-codes, or {lam_hint}"
        )
    found = [_projected(*layer, num_codes) for layer in zip(edit, keep, ranks, strict=True)]
    codes = _best([rows for rows, _ in found], [values for _, values in found], num_codes)
    if len(codes) < num_codes:
        raise InputError(
            f"only {len(codes)} of {rank_edit} directions are left and differ after the projection of eq. 8 away from {rank_keep}"
            f" directions of the kept frame, fewer than the {num_codes} codes asked for; lower --num-codes, --codes.energy or --codes.rank"
        )
    return _with_sign(codes)


def _projected(edit: LowRank, keep: LowRank, ranks: tuple[int, int], most: int) -> tuple[Tensor, Tensor]:
    """Up to `most` codes [m, w_dim] of eq. 8 in their order, and the size of the eigenvalue of each, [m]."""
    rank_edit, rank_keep = ranks
    kept = keep.eigenvectors[:, :rank_keep]
    codes, numbers = kept.new_zeros(0, len(kept)), []
    for number, vector in enumerate(edit.eigenvectors[:, : rank_edit if rank_keep else 0].T):
        code = _remainder(vector, kept.T)
        code = None if code is None else _remainder(code, torch.cat([kept.T, codes]))
        if code is not None:
            codes = torch.cat([codes, code[None]])
            numbers.append(number)
        if len(codes) == most:
            break
    return codes, edit.eigenvalues[numbers].abs()


def generalized_codes(gram_edit: Tensor, gram_keep: Tensor, spread: Tensor, num_codes: int, epsilon: float) -> Tensor:
    """Codes [num_codes, w_dim] that change one frame most for a bounded change of the other, near where w lies, float64.

    `spread` is a factor L of the covariance L L^T of mapped w, [w_dim, w_dim], lower triangular. In coordinates w = L u, in which
    mapped w vary alike in all directions, they are the leading solutions of A u = lambda (B + epsilon mean(eigenvalues of B) I) u
    with A = L^T gram_edit L and B = L^T gram_keep L. So the floor `epsilon` is the price of leaving the latent distribution: without
    it those directions win that hardly change either frame as far as w reaches. The codes L u are orthonormalised in their order: the
    span of the first m is that of the first m solutions, in which no direction has a lower quotient than the m-th.
    Grams of layers [num_ws, w_dim, w_dim] give codes of W+ by the same problem: A, B and L then have a block per layer, and so each
    solution is of one layer, while floor and order are over all. Raises InputError when a code would edit nothing, and for an
    epsilon that is not positive.
    """
    if epsilon <= 0:
        raise InputError(f"codes.epsilon is {epsilon}; it must be positive, 0.001 is usual; change --codes.epsilon")
    gram_edit, gram_keep, spread = (x.cpu().double() for x in (gram_edit, gram_keep, spread))
    dims = gram_edit.shape[:-1].numel()
    if num_codes > dims:
        raise InputError(f"{num_codes} codes were asked for, but w has only {dims} dimensions; lower --num-codes")
    edits, keeps = ([spread.T @ block @ spread for block in blocks(gram)] for gram in (gram_edit, gram_keep))
    floor = epsilon * torch.stack([keep.trace() for keep in keeps]).sum() / dims
    found = [_solutions(edit, keep, floor, num_codes) for edit, keep in zip(edits, keeps, strict=True)]
    vectors = [spread @ solutions for solutions, _ in found]
    codes = _best([(columns / columns.norm(dim=0)).T for columns in vectors], [values for _, values in found], num_codes)
    require_effect(codes, gram_edit)  # before they are mixed: a solution without effect would borrow that of the others
    codes = _with_sign(_orthonormal(codes, len(spread)))
    require_effect(codes, gram_edit)
    return codes


def _solutions(edit: Tensor, keep: Tensor, floor: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Leading solutions of edit u = lambda (keep + floor I) u, matrices [w_dim, w_dim]: u [w_dim, most] and lambda [most], falling."""
    factor, failed = torch.linalg.cholesky_ex(keep + floor * torch.eye(len(keep), dtype=keep.dtype))
    if failed:
        raise InputError("the Gram of the kept frame is zero or not positive at this epsilon; raise --codes.epsilon or --latents")
    half = torch.linalg.solve_triangular(factor, edit, upper=False)
    whitened = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    values, vectors = torch.linalg.eigh((whitened + whitened.mT) / 2)
    return torch.linalg.solve_triangular(factor.mT, vectors.flip(1)[:, :most], upper=True), values.flip(0)[:most]


def _best(rows: Sequence[Tensor], values: Sequence[Tensor], most: int) -> Tensor:
    """Those of `rows` with the largest `values`, `most` at most: [m, w_dim], in W+ [m, num_ws * w_dim].

    Both have an entry per layer, [number, w_dim] and [number], values falling; in W a single one, whose first rows are then taken.
    """
    layers = torch.cat([torch.full((len(some),), layer) for layer, some in enumerate(rows)])
    order = torch.cat(list(values)).argsort(descending=True, stable=True)[:most]
    return in_layers(torch.cat(list(rows))[order], layers[order], len(rows))


def _orthonormal(codes: Tensor, w_dim: int) -> Tensor:
    """Unit vectors made orthogonal in their order; each stays in its layer, as those of others are orthogonal to it."""
    layers, found = layers_of(codes, w_dim), torch.zeros_like(codes)
    for layer in layers.unique():
        own = by_layer(codes, w_dim)[:, layer][layers == layer]
        orthonormal, upper = torch.linalg.qr(own.T)
        if float(upper.diagonal().abs().min()) < MIN_NORM**2:
            raise InputError(f"some of the {len(codes)} codes are one vector; lower --num-codes, or raise --codes.epsilon or --latents")
        by_layer(found, w_dim)[layers == layer, layer] = orthonormal.T
    return found


def random_codes(num_codes: int, w_dim: int, seed: int) -> Tensor:
    """Random orthonormal directions [num_codes, w_dim], float64: what codes are compared with."""
    generator = torch.Generator().manual_seed(seed)
    directions: Tensor = torch.linalg.qr(torch.randn(w_dim, num_codes, generator=generator, dtype=torch.float64)).Q
    return directions.T.contiguous()


def random_layers(num_codes: int, gram_edit: Tensor, seed: int) -> Tensor:
    """Random layers [num_codes] among those that change the edited frame; gram_edit: [num_ws, w_dim, w_dim], or in W [w_dim, w_dim]."""
    traces = torch.stack([block.trace() for block in blocks(gram_edit)])
    able = (traces > MIN_STRENGTH * traces.mean()).nonzero()[:, 0].cpu()
    return able[torch.randint(len(able), (num_codes,), generator=torch.Generator().manual_seed(seed))]


def strengths(codes: Tensor, gram: Tensor) -> Tensor:
    """Mean squared change of a frame for a unit step along each code to first order, n^T J^T J n (eq. 5): [num_codes].

    Codes of W+ have Grams of layers [num_ws, w_dim, w_dim].
    """
    layers = zip(by_layer(codes.cpu().double(), gram.shape[-1]).unbind(1), blocks(gram.cpu().double()), strict=True)
    return torch.stack([(rows @ block * rows).sum(1) for rows, block in layers]).sum(0)


def reach(codes: Tensor, gram: Tensor, spread: Tensor) -> float:
    """Mean squared change of a frame, to first order, when w moves along the codes by as much as mapped w do with the rest of w given.

    Of w of covariance L L^T, L the `spread`, the part along the `codes` N [num_codes, w_dim] has the covariance
    (N (L L^T)^-1 N^T)^-1, given what is orthogonal to them: so it is the trace of that times N gram N^T.
    In W+, with Grams of layers, the w of each layer is taken to vary by itself.
    """
    rows, spread = by_layer(codes.cpu().double(), len(spread)).unbind(1), spread.cpu().double()
    white = [torch.linalg.solve_triangular(spread, own.T, upper=False) for own in rows]
    along = torch.linalg.inv(torch.stack([own.T @ own for own in white]).sum(0))
    changes = torch.stack([own @ block @ own.T for own, block in zip(rows, blocks(gram.cpu().double()), strict=True)]).sum(0)
    return float((along * changes).sum())


def require_effect(codes: Tensor, gram_edit: Tensor) -> None:
    """Raise InputError when a code does not change the frame that it shall edit."""
    traces = torch.stack([block.trace() for block in blocks(gram_edit)])
    least = MIN_STRENGTH * float(traces.sum()) / gram_edit.shape[:-1].numel()
    weak = [i for i, strength in enumerate(strengths(codes, gram_edit).tolist()) if not strength > least]
    if weak:
        raise InputError(f"codes {weak} of {len(codes)} edit nothing; lower --num-codes, or raise --latents or --codes.epsilon")


@dataclass(frozen=True)
class Edits:
    """Codes applied at equal strength to the same latents; every field is [num_codes, latents], float64."""

    alpha: Tensor
    """Step along the code (eq. 2), positive at even latents and negative at odd ones."""
    edited: Tensor
    """Mean squared difference that the step makes to the frame that is edited: the target, within 1 %."""
    kept: Tensor
    """And to the other frame."""

    @property
    def ratios(self) -> Tensor:
        """Change of the edited over change of the kept frame, each a mean over the latents: [num_codes].

        As the edited change is the same everywhere, this is the harmonic mean of the ratios of single latents: a latent
        where the kept frame moves counts in full, and one where it hardly moves cannot lift the figure. A kept change
        below 1e-12, where float32 ends, counts as 1e-12.
        """
        return self.edited.mean(1) / self.kept.mean(1).clamp_min(1e-12)


def edit_ratios(synthesize: Synthesize, w: Tensor, codes: Tensor, edited: int, target_mse: float = 3e-4, batch: int = 32) -> Tensor:
    """How much more each code changes the frame `edited` (0 or 1) than the other: `Edits.ratios` of `equal_edits`, [num_codes]."""
    return equal_edits(synthesize, w, codes, edited, target_mse, batch).ratios


@torch.no_grad()
def equal_edits(synthesize: Synthesize, w: Tensor, codes: Tensor, edited: int, target_mse: float = 3e-4, batch: int = 32) -> Edits:
    """Scale each of `codes` [num_codes, w_dim], or of W+, at each of `w` [n, w_dim] until frame `edited` changes by `target_mse`.

    The mean squared difference is that of frames as `synthesize` gives them ([-1, 1], not clamped). It grows about with the
    square of the step, so a step is corrected by the square root of what is missing, kept within the bracket known so far.
    `batch` pairs are synthesized at once. Raises InputError when a code does not reach the target at any strength.
    """
    w = in_space_of(codes, w)
    base = torch.cat([synthesize(w[i : i + batch]) for i in range(0, len(w), batch)])
    shape = (len(codes), len(w))
    code_of, latent_of = (index.flatten() for index in torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij"))
    steps = codes.to(w)[code_of.to(w.device)] * (1 - 2 * (latent_of % 2)).to(w)[:, None]
    alpha = torch.ones(len(code_of), dtype=torch.float64)
    low, high = torch.zeros_like(alpha), torch.full_like(alpha, math.inf)
    change = torch.zeros(len(alpha), 2, dtype=torch.float64)
    todo = torch.arange(len(alpha))
    for _ in range(SEARCH_STEPS):
        for start in range(0, len(todo), batch):
            part = todo[start : start + batch]
            i, source = part.to(w.device), latent_of[part].to(w.device)
            frames = synthesize(w[source] + alpha[part].to(w)[:, None] * steps[i])
            change[part] = (frames - base[source]).double().square().mean((2, 3, 4)).cpu()
        got = change[todo, edited] / target_mse
        low[todo] = torch.where(got < 1, alpha[todo], low[todo])
        high[todo] = torch.where(got < 1, high[todo], alpha[todo])
        keep = ~((got - 1).abs() <= SEARCH_TOLERANCE)  # not-a-number stays in
        todo, got = todo[keep], got[keep]
        if not len(todo):
            break
        alpha[todo] = _next_step(alpha[todo], got, low[todo], high[todo])
    if len(todo):
        raise InputError(
            f"code {int(code_of[todo[0]])} does not change frame {edited} by a mean squared difference of {target_mse:g} at any strength"
            f" ({len(todo)} of {len(alpha)} edits); lower --num-codes, or train stage 1 for longer {ANOTHER_NAME}"
        )
    signed = alpha * (1 - 2 * (latent_of % 2))
    return Edits(signed.view(shape), change[:, edited].reshape(shape), change[:, 1 - edited].reshape(shape))


def _next_step(alpha: Tensor, got: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The next trial: a quadratic guess if it lies within the bracket, else the middle of the bracket on a log scale."""
    guess = alpha * got.rsqrt().nan_to_num(8.0, posinf=8.0).clamp(1 / 8, 8)
    middle = (torch.where(low > 0, low, high / 64) * torch.where(high < math.inf, high, low * 64)).sqrt()
    return torch.where((guess > low) & (guess < high), guess, middle)


def _remainder(vector: Tensor, rows: Tensor) -> Tensor | None:
    """The unit vector along what is left of a unit `vector` [d] without the span of orthonormal `rows`; None if too little."""
    rest = vector - rows.T @ (rows @ vector)
    norm = float(rest.norm())
    if norm < MIN_NORM:
        return None
    rest -= rows.T @ (rows @ rest)  # once more: rounding is large where little is left
    rest /= rest.norm()
    return rest


def _with_sign(codes: Tensor) -> Tensor:
    """Codes with their largest entry positive: eigenvectors have no sign of their own."""
    largest = codes.gather(1, codes.abs().argmax(1, keepdim=True))
    return codes * largest.sign()
