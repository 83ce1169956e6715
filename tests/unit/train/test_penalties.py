"""Penalties of stage 1 by their definitions: values, weights and the gradients of all weights of the networks that train, in float64."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mvgan.config import Network, Pairs, Run
from mvgan.nets.generator import Noise
from mvgan.train.pairs import PairStage, mixed_ws
from mvgan.train.ranks import Ranks
from mvgan.train.state import Progress


RUN = Run(
    resolution=8,
    network=Network(z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8, precision="fp32"),
    pairs=Pairs(batch=4, group=2, lr=0.0, r1_gamma=3.0, r1_every=5, pl_weight=0.7, pl_every=7),
)
"""Steps of length 0 leave the gradient of the phase behind and change no weight."""


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """Whatever is drawn or made without a dtype of its own is in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(**changes: Any) -> PairStage:
    """A stage that computes all blocks in float64, whose noise has an effect."""
    run = dataclasses.replace(RUN, pairs=dataclasses.replace(RUN.pairs, **changes))
    stage = PairStage(run, Ranks(run.pairs.batch // run.pairs.group, run.pairs.group), torch.device("cpu"))
    stage.discriminator.dtypes = [torch.float64] * len(stage.discriminator.dtypes)
    for block in stage.generator.synthesis.blocks:
        block.dtype = torch.float64
    with torch.no_grad():
        for name, p in stage.generator.named_parameters():
            if name.endswith("noise_strength"):
                p.fill_(0.3)
    return stage


def r1(stage: PairStage, real: Tensor) -> float:
    """Mescheder et al. 2018, Eq. 9 without gamma: half the mean over real pairs of |grad D|^2, which needs first derivatives only.

    The logits of a group are summed before, as they depend on all of its pairs.
    """
    total = 0.0
    for part in real.split(stage.ranks.group):
        x = part.clone().requires_grad_(True)
        (grad,) = torch.autograd.grad(stage.discriminator(x, stage.ranks.group).sum(), x)
        total += float(grad.square().sum())
    return total / len(real) / 2


@dataclasses.dataclass(frozen=True)
class PathDraws:
    """What the path length phase was given, but the workers."""

    z: Tensor
    z_mix: Tensor
    cutoff: Tensor
    y: Tensor
    noise: Noise
    mean: Tensor


@torch.no_grad()
def path_lengths(stage: PairStage, drawn: PathDraws) -> Tensor:
    """|J_w^T y| of StyleGAN2, Eq. 4, per sample [n], root mean over the layers: in forward mode, coordinate of w after coordinate."""
    ws = mixed_ws(stage.generator, drawn.z, drawn.z_mix, drawn.cutoff)
    n, num_ws, w_dim = ws.shape

    def product(ws: Tensor) -> Tensor:
        return (stage.generator.synthesis(ws, drawn.noise) * drawn.y).sum((1, 2, 3, 4)) / stage.run.resolution

    coordinates = torch.eye(num_ws * w_dim).reshape(-1, 1, num_ws, w_dim).expand(-1, n, -1, -1)
    slopes = torch.func.vmap(lambda along: torch.func.jvp(product, (ws,), (along,))[1])(coordinates)
    return slopes.reshape(num_ws, w_dim, n).square().sum(1).mean(0).sqrt()


def mean_of(drawn: PathDraws, lengths: Tensor) -> Tensor:
    """a of Eq. 4: 0.01 of the way from the running mean to the lengths of this very step, on which it therefore depends."""
    return drawn.mean + 0.01 * (lengths.mean() - drawn.mean)


def path_draws(stage: PairStage) -> list[PathDraws]:
    """Filled with what each pass of the path length phase is given."""
    given: list[PathDraws] = []
    stage._path_length.register_forward_pre_hook(lambda _, args: given.append(PathDraws(*args[1:])))
    return given


def same_slopes(net: nn.Module, value: Callable[[], float], directions: int = 3, step: float = 1e-6) -> None:
    """The gradient that lies in `net` against central differences of `value`, along random directions of all weights together."""
    parameters = list(net.parameters())
    draw = torch.Generator().manual_seed(1)
    gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for _ in range(directions):
        along = [torch.randn(p.shape, generator=draw) for p in parameters]
        move(parameters, along, step)
        above = value()
        move(parameters, along, -2 * step)
        below = value()
        move(parameters, along, step)
        found = sum(float((g * v).sum()) for g, v in zip(gradient, along, strict=True))
        assert found == pytest.approx((above - below) / (2 * step), rel=1e-6)


@torch.no_grad()
def move(parameters: Sequence[Tensor], along: Sequence[Tensor], step: float) -> None:
    for p, v in zip(parameters, along, strict=True):
        p.add_(v, alpha=step)


def test_r1() -> None:
    """Reference: finite differences of the definition; lazily, every 5 steps with 5 times the weight (StyleGAN2, Appendix B)."""
    stage = build()
    real = torch.randn(4, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    stats = stage._step_r1(real, Progress())
    assert float(stats["r1"]) == pytest.approx(3.0 * r1(stage, real), rel=1e-9), "what is logged is free of the lazy factor"
    same_slopes(stage.discriminator, lambda: 5 * 3.0 * r1(stage, real))


def test_path_length() -> None:
    """Reference: finite differences of the definition, lazily as R1. The mean depends on the weights, but not by way of earlier steps."""
    stage = build()
    stage.pl_mean.fill_(0.5)
    given = path_draws(stage)
    for step in range(2):
        past = stage.pl_mean.clone()
        stats = stage._step_path_length(Progress(4 * step))
        drawn = given[-1]

        def penalty(drawn: PathDraws = drawn) -> float:
            lengths = path_lengths(stage, drawn)
            return float((lengths - mean_of(drawn, lengths)).square().mean())

        assert torch.equal(drawn.mean, past) and not stage.pl_mean.requires_grad
        assert float(stats["pl_mean"]) == float(stage.pl_mean) == pytest.approx(float(mean_of(drawn, path_lengths(stage, drawn))), rel=1e-9)
        assert float(stats["pl_penalty"]) == pytest.approx(0.7 * penalty(), rel=1e-9), "what is logged is free of the lazy factor"
        same_slopes(stage.generator, lambda penalty=penalty: 7 * 0.7 * penalty())


def test_a_mean_that_does_not_depend_on_the_weights_would_show() -> None:
    """A negative control: with the mean of this step as a constant the definition has another gradient."""
    stage = build()
    given = path_draws(stage)
    stage._step_path_length(Progress())
    mean = mean_of(given[0], path_lengths(stage, given[0]))
    with pytest.raises(AssertionError, match="comparison failed"):
        same_slopes(stage.generator, lambda: 7 * 0.7 * float((path_lengths(stage, given[0]) - mean).square().mean()))
