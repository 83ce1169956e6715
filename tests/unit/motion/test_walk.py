"""Walks: pieces against the whole walk, and what holds a walk."""

import itertools
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from mvgan.config import InputError
from mvgan.motion.walk import ANCHOR, INNER, Hold, between, chunks, held_walk, hold_of
from mvgan.nets.latent import LatentGenerator
from tests.unit.motion.test_distribution import W_DIM, correlated, distribution, normal


CODES = 3


def network(residual: float = 0.2, bias: float = 0.0) -> LatentGenerator:
    """A small L_omega whose coefficients vary, with a mean of its own where `bias` is not 0; in float64."""
    torch.manual_seed(0)
    net = LatentGenerator(W_DIM, 5, CODES, residual).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    torch.nn.init.constant_(net.coefficients.bias, bias)
    return net.requires_grad_(False)


def codes(layers: int = 1) -> Tensor:
    """Of W, or of W+ with so many layers: walks do not ask whether a code acts in one of them alone."""
    return torch.linalg.qr(normal(layers * W_DIM, 2 * CODES, seed=3)).Q.t().reshape(2, CODES, layers * W_DIM).contiguous()


def draws(n: int, size: int) -> Callable[[int], Tensor]:
    return lambda place: normal(n, size, W_DIM, seed=100 + place)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("first", ["latter", "former"])
@pytest.mark.parametrize("layers", [1, 3])
def test_pieces_are_the_whole_walk(first: Literal["latter", "former"], held: bool, layers: int) -> None:
    """Reference: the walk of eq. 10 at once; with a hold its formula, step by step."""
    net, w, size = network(), correlated(2, 7), 4
    mean = torch.arange(2 * CODES, dtype=torch.float64).view(2, CODES) / 50
    hold = Hold(0.1, mean, distribution()) if held else None
    anchor = w if hold is None else hold.anchor(w)
    found = torch.cat(list(itertools.islice(chunks(net, anchor, draws(2, size), codes(layers), first, size, hold), 5)), dim=1)
    noise = torch.cat([draws(2, size)(place) for place in range(5)], dim=1)
    if hold is None:
        expected = net(w, noise, codes(layers), first)[:, :20]
    else:
        coefficients, _ = net.steer(noise, net.encoder(anchor))
        anchor = anchor.repeat(1, layers)
        rows = [anchor]
        for t in range(1, 20):
            side = (t + (0 if first == "former" else 1)) % 2
            u = 0.9 * (rows[-1] - anchor) + 0.2 * (coefficients[:, t - 1] - mean[side]) @ codes(layers)[side]
            rows.append(hold.distribution.drawn_in(anchor + u, anchor, hold.distribution.quantile(INNER)))
        expected = torch.stack(rows, dim=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_pieces_of_odd_size_are_refused() -> None:
    with pytest.raises(ValueError, match="even size"):
        next(chunks(network(), correlated(1, 7), draws(1, 3), codes(), "latter", 3))


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("residual", [0.02, 0.3])
def test_a_held_walk_stays_and_moves(residual: float, layers: int) -> None:
    """2,000 steps whose mean is not 0: a plain walk is far away at the end, a held one never beyond its quantile, and still moving."""
    net, near = network(residual, bias=0.5), distribution()
    hold = hold_of(net, correlated(8, 8), normal(8, 400, W_DIM, seed=11), codes(layers), "latter", near)
    w = correlated(4, 12)
    coefficients, _ = net.steer(normal(4, 2000, W_DIM, seed=13), net.encoder(hold.anchor(w)))
    plain = net.walk(w, coefficients, codes(layers), "latter")
    assert near.distance(plain[:, -1]).min() > 2 * near.quantile(0.99)
    ws = held_walk(net, hold.anchor(w), hold.anchor(w), coefficients, codes(layers), "latter", hold)
    assert near.distance(ws[:, :1]).max() <= near.quantile(ANCHOR) * (1 + 1e-9)
    assert near.distance(ws).max() <= near.quantile(INNER) * (1 + 1e-9)
    steps = ws.diff(dim=1).square().sum(2).mean(0)
    assert steps[-500:].mean() > 0.5 * steps[:500].mean()


def test_the_hold_is_as_weak_as_can_be() -> None:
    """Short steps around a mean of 0 need no pull; longer ones do, and at less of it more frames would be beyond."""
    near, noise, w = distribution(), normal(8, 400, W_DIM, seed=11), correlated(8, 8)
    weak, strong = (hold_of(network(residual), w, noise, codes(), "latter", near) for residual in (1e-4, 0.3))
    assert weak.pull == 0 < strong.pull < 1


@pytest.mark.parametrize("first", ["latter", "former"])
def test_the_mean_of_each_side(first: Literal["latter", "former"], monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: coefficients by hand that are 0.1 and 0.5 in turn, but for noise: the first step's are of the side that frame 1 shows."""
    net, noise = network(0.2), normal(64, 40, CODES, seed=5)
    turns = torch.tensor([0.1, 0.5], dtype=torch.float64).repeat(20)[:, None]
    monkeypatch.setattr(LatentGenerator, "steer", lambda self, e, state: (turns + 0.1 * noise, state))
    hold = hold_of(net, correlated(64, 8), normal(64, 40, W_DIM, seed=11), codes(), first, distribution())
    sides = [0.1, 0.5] if first == "latter" else [0.5, 0.1]  # latter first: frame 1 is a former one, which backward codes edit
    torch.testing.assert_close(hold.mean, torch.tensor(sides, dtype=torch.float64)[:, None].expand(2, CODES), rtol=0, atol=0.02)


def test_walks_that_go_one_way_cannot_be_held() -> None:
    """Without its mean nothing is left of a constant coefficient: the video would be still, and nobody would know why."""
    net = network(0.2, bias=0.4)
    torch.nn.init.zeros_(net.coefficients.weight)
    with pytest.raises(InputError, match="walks one way only"):
        hold_of(net, correlated(8, 8), normal(8, 40, W_DIM, seed=11), codes(), "latter", distribution())


@pytest.mark.parametrize("factor", [1, 2, 5])
def test_between(factor: int) -> None:
    """Reference: numpy's interpolation of every second w; on a line second differences are 0, so that nothing alternates."""
    ws = normal(1, 24, W_DIM)
    found = torch.cat(list(between(ws.split(8, dim=1), factor)), dim=1)[0].numpy()
    times = np.arange(len(found)) / factor
    knots = ws[0, 0::2].numpy()
    expected = np.stack([np.interp(times, np.arange(len(knots)), column) for column in knots.T], axis=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert len(found) == factor * (len(knots) - 1)
    second = np.abs(np.diff(found, 2, axis=0)).max(axis=1)
    inside = np.arange(len(second)) % factor != factor - 1  # not across a knot
    assert not inside.any() or second[inside].max() < 1e-12
