"""Walks through w of any length in constant memory: the paper's plain recursion, and one that stays where the generator knows w.

Plain (eq. 10): w_t+1 = w_t + M_t codes. Steps add up, so that w leaves what the mapping network gives, and frames with it.
Held: u_t+1 = (1 - pull) u_t + (M_t - M) codes, and w_t = a + u_t. The anchor a is w_0, where that is farther than most brought in; M is
the mean coefficient of L_omega in the long run, without which even a held walk would come to rest at one side; `pull` is the least at
which walks stay within a distance of the latent distribution, and what goes beyond all the same is drawn back to the anchor. As the
coefficients come from noise and not from w, holding changes none of them. With codes of W+ walks are of W+, [..., num_ws * w_dim] for
[..., w_dim], and begin with w_0 in all layers.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mvgan.config import ANOTHER_NAME, InputError
from mvgan.motion.distribution import LatentDistribution
from mvgan.nets.latent import FORMER, LatentGenerator, Side, shown_sides
from mvgan.nets.space import in_space_of


ANCHOR, INNER = 0.5, 0.95
"""Quantiles of the distances of mapped w: anchors lie within the first, held walks within the second."""

LEAST = 0.02
"""Share of the squares of coefficients that must be left without their mean: else they walk one way."""

RARE = 0.05
"""Share of the frames of held walks that would be beyond it by the pull alone."""


@dataclass(frozen=True)
class Hold:
    """What keeps a walk in place; see the module. The plain walk has none."""

    pull: float
    """Share of the way back to the anchor taken each step, from 0 to 1."""
    mean: Tensor
    """Mean coefficients [2, num_codes] in the long run, for steps along backward and forward codes."""
    distribution: LatentDistribution

    def anchor(self, w: Tensor) -> Tensor:
        """Where walks from `w` [n, w_dim] begin and are held."""
        return self.distribution.drawn_in(w, self.distribution.mean.to(w).expand_as(w), self.distribution.quantile(ANCHOR))


def chunks(
    latent: LatentGenerator, w: Tensor, noise: Callable[[int], Tensor], codes: Tensor, first: Side, size: int, hold: Hold | None = None
) -> Iterator[Tensor]:
    """w_0, w_1, ... without end, in pieces [n, size, w_dim], `size` even; `w` is w_0 [n, w_dim], or the anchor of a held walk.

    noise: gives the decoder's [n, size, w_dim] for the steps after the start of piece 0, 1, ... Memory holds one piece.
    """
    if size % 2:
        raise ValueError(f"pieces of {size} would begin on either side of the pair in turn; give an even size")
    state, anchor, place = latent.encoder(w), w, 0
    while True:
        coefficients, state = latent.steer(noise(place), state)
        if hold is None:
            ws = latent.walk(w, coefficients, codes, first)
        else:
            ws = held_walk(latent, anchor, w, coefficients, codes, first, hold)
        yield ws[:, :size]
        w, place = ws[:, size], place + 1


def held_walk(latent: LatentGenerator, anchor: Tensor, w: Tensor, coefficients: Tensor, codes: Tensor, first: Side, hold: Hold) -> Tensor:
    """As `LatentGenerator.walk` from w [n, w_dim] by `coefficients` [n, steps, num_codes], held near `anchor` [n, w_dim]."""
    anchor, most, ws = in_space_of(codes, anchor), hold.distribution.quantile(INNER), [in_space_of(codes, w)]
    for u in _deviations(latent, coefficients, codes, first, hold.mean):
        ws.append(hold.distribution.drawn_in(anchor + (1 - hold.pull) * (ws[-1] - anchor) + u, anchor, most))
    return torch.stack(ws, dim=1)


def _deviations(latent: LatentGenerator, coefficients: Tensor, codes: Tensor, first: Side, mean: Tensor) -> list[Tensor]:
    """Steps [n, w_dim] of a walk without their mean."""
    sides, codes = shown_sides(coefficients.shape[1] + 1, first), latent.residual * latent.scale[:, :, None] * codes
    return [(coefficient - mean[sides[t]]) @ codes[sides[t]] for t, coefficient in enumerate(coefficients.unbind(1), start=1)]


def between(pieces: Iterable[Tensor], factor: int) -> Iterator[Tensor]:
    """Every second w of a walk in `pieces` [n, size, w_dim], those of one side, with `factor` - 1 between each two, on straight lines.

    So all frames come from one side of the pair, and a video of them does not alternate between two. A factor of 2 keeps the speed
    of the walk, 2 m makes it m times as slow. Gives pieces [n, frames, w_dim] that hold what can be told so far.
    """
    last: Tensor | None = None
    for piece in pieces:
        knots = piece[:, 0::2] if last is None else torch.cat([last, piece[:, 0::2]], dim=1)
        last, (start, stop) = knots[:, -1:], (knots[:, :-1, None], knots[:, 1:, None])
        share = torch.arange(factor, device=piece.device).to(piece)[:, None] / factor
        yield (start + (stop - start) * share).flatten(1, 2)


@torch.no_grad()
def hold_of(latent: LatentGenerator, w: Tensor, noise: Tensor, codes: Tensor, first: Side, distribution: LatentDistribution) -> Hold:
    """The weakest hold under which walks from mapped `w` [n, w_dim] by `noise` [n, steps, w_dim] seldom need to be drawn back.

    The second half of the steps, when w_0 is forgotten, gives the mean; the pull is found by halving.
    Raises InputError when without their mean hardly anything is left of the coefficients.
    """
    coefficients, _ = latent.steer(noise, latent.encoder(w))
    settled = coefficients[:, coefficients.shape[1] // 4 * 2 :]
    odd, even = settled[:, 0::2].mean((0, 1)), settled[:, 1::2].mean((0, 1))
    mean = torch.stack([odd, even] if shown_sides(2, first)[1] == FORMER else [even, odd])
    left = sum(float((settled[:, i::2] - by_turn).square().mean()) for i, by_turn in ((0, odd), (1, even)))
    if left < LEAST * 2 * float(settled.square().mean()):
        raise InputError(
            "the latent code generator walks one way only: a held walk would stand still; train stage 3 with --video.drift-weight above 0"
            f" and --video.init-std 0.2 {ANOTHER_NAME}, or leave the hold away"
        )
    most, free = distribution.quantile(INNER), Hold(0.0, mean, distribution)
    anchor = in_space_of(codes, free.anchor(w))
    steps = _deviations(latent, coefficients, codes, first, mean)

    def beyond(pull: float) -> float:
        u, count = torch.zeros_like(anchor), 0.0
        for step in steps:
            u = (1 - pull) * u + step
            count += float((distribution.distance(anchor + u) > most).double().mean())
        return count / len(steps)

    low, high = 0.0, 1.0
    if beyond(low) <= RARE:
        return free
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) <= RARE else (middle, high)
    return Hold(high, mean, distribution)
