"""The pair generator: sizes, which w drives which layer, noise, truncation, precision."""

import dataclasses
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mvgan.config import Network
from mvgan.nets.generator import Generator, Mapping, SynthesisLayer


SMALL = Network(z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=16, precision="fp32")


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def small(seed: int = 0, noise: float = 0.3, resolution: int = 16) -> Generator:
    """A small generator whose noise has an effect, in float64."""
    torch.manual_seed(seed)
    generator = Generator(SMALL, resolution).double()
    for block in generator.synthesis.blocks:
        block.dtype = torch.float64
        for layer in (block.conv0, block.conv1):
            if layer is not None:
                nn.init.constant_(layer.noise_strength, noise)
    return generator


@pytest.mark.parametrize(
    ("channel_base", "mapping_layers", "num_frames", "expected"),
    [(32768, 8, 2, 30_043_191), (32768, 8, 1, 30_034_338), (32768, 2, 2, 28_467_255), (16384, 8, 2, 24_774_967)],
)
def test_parameters(channel_base: int, mapping_layers: int, num_frames: Literal[1, 2], expected: int) -> None:
    """Reference: counts of NVIDIA's stylegan3 repository with cfg stylegan2 at 256 px, with 6 and with 3 channels."""
    with torch.device("meta"):
        generator = Generator(Network(frames=num_frames, channel_base=channel_base, mapping_layers=mapping_layers), 256)
    assert count(generator) == expected
    assert generator.synthesis.num_ws == 14


@pytest.mark.parametrize("resolution", [8, 16, 64])
def test_shapes(resolution: int) -> None:
    generator = Generator(SMALL, resolution)
    frames = generator(torch.randn(3, 8))
    assert frames.shape == (3, 2, 3, resolution, resolution) and frames.dtype == torch.float32
    assert generator.synthesis.num_ws == 2 * resolution.bit_length() - 4


def test_the_first_three_channels_are_the_former_frame() -> None:
    """Reference: setting the weights of the last three colours to zero blanks the latter frame only."""
    generator = small()
    with torch.no_grad():
        for block in generator.synthesis.blocks:
            block.to_frames.weight[3:] = 0
    frames = generator(torch.randn(2, 8, dtype=torch.float64))
    assert frames[:, 0].abs().min() > 0 and frames[:, 1].abs().max() == 0


def test_each_w_drives_its_layers() -> None:
    """Reference: StyleGAN2's table of styles: w i drives convolution i; ToRGB of a block shares w with the next block's first one."""
    generator = small()
    ws = torch.randn(1, generator.synthesis.num_ws, 8, dtype=torch.float64, requires_grad=True)
    seen: dict[str, set[int]] = {}
    for name, module in generator.synthesis.named_modules():
        if name.endswith("affine"):
            module.register_forward_hook(lambda _, inputs, __, name=name: seen.setdefault(name, set()).add(which(inputs[0], ws)))
    generator.synthesis(ws)
    expected = {}
    for b in range(3):
        if b:
            expected[f"blocks.{b}.conv0.affine"] = {2 * b - 1}
        expected[f"blocks.{b}.conv1.affine"] = {2 * b}
        expected[f"blocks.{b}.to_frames.affine"] = {2 * b + 1}
    assert seen == expected


def which(w: Tensor, ws: Tensor) -> int:
    return next(i for i in range(ws.shape[1]) if torch.equal(w, ws[:, i]))


def test_one_w_is_all_ws() -> None:
    generator = small()
    w = torch.randn(2, 8, dtype=torch.float64)
    assert torch.equal(generator.synthesis(w), generator.synthesis(w[:, None].expand(-1, generator.synthesis.num_ws, -1)))


def test_noise() -> None:
    """Without draws the fixed maps are used: same frames. Draws are asked for per layer, in order, and have an effect."""
    generator = small()
    w = torch.randn(2, 8, dtype=torch.float64)
    asked: list[tuple[int, int]] = []

    def draws(layer: int, resolution: int) -> Tensor:
        asked.append((layer, resolution))
        return torch.randn(2, 1, resolution, resolution, dtype=torch.float64)

    fixed = generator.synthesis(w)
    assert torch.equal(fixed, generator.synthesis(w))
    assert not torch.allclose(fixed, generator.synthesis(w, draws))
    assert asked == [(0, 4), (1, 8), (2, 8), (3, 16), (4, 16)]


def test_the_fixed_noise_given_as_draws_changes_nothing() -> None:
    """Reference: the fixed maps themselves."""
    generator = small()
    layers = [layer for block in generator.synthesis.blocks for layer in (block.conv0, block.conv1) if layer is not None]
    maps = {layer.index: layer.noise_const for layer in layers}
    w = torch.randn(2, 8, dtype=torch.float64)
    given = generator.synthesis(w, lambda layer, _: maps[layer].expand(2, 1, -1, -1))
    torch.testing.assert_close(given, generator.synthesis(w), rtol=0, atol=1e-12)


def test_mapping() -> None:
    """Reference: the formula, layer by layer; truncation is a straight line from w_avg to w."""
    torch.manual_seed(0)
    mapping = Mapping(SMALL).double()
    z = torch.randn(3, 8, dtype=torch.float64)
    x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for layer in mapping.layers:
        x = x @ (layer.weight * 0.01 / 8**0.5).t() + layer.bias * 0.01
        x = torch.where(x > 0, x, 0.2 * x) * 2**0.5
    torch.testing.assert_close(mapping(z), x, rtol=0, atol=1e-12)
    mapping.w_avg.normal_()
    for truncation in (0.0, 0.3, 0.7, 1.0):
        expected = truncation * x + (1 - truncation) * mapping.w_avg
        torch.testing.assert_close(mapping(z, truncation), expected, rtol=0, atol=1e-12)


def test_w_of_a_normal_z_has_unit_size() -> None:
    """The mapping keeps the mean square near 1 whatever the learning-rate multiplier (wrong gains would vanish or explode in 8 layers)."""
    torch.manual_seed(0)
    w = Mapping(Network(z_dim=256, w_dim=256))(torch.randn(64, 256)).detach()
    assert 0.3 < float(w.square().mean()) < 3


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.02), ("fp16", 0.002)])
def test_half_precision_stays_near_fp32(precision: Literal["bf16", "fp16"], bound: float) -> None:
    """Reference: the same weights in float32; bf16 carries 8 bits, so errors of a few percent of the range are expected; fp16 11."""
    torch.manual_seed(0)
    generator = Generator(dataclasses.replace(SMALL, precision=precision, channel_base=1024, channel_max=32), 32)
    w = torch.randn(2, 8)
    exact, rough = generator.synthesis(w, None, torch.float32), generator.synthesis(w)
    assert rough.dtype == torch.float32 and not torch.equal(exact, rough)
    assert ((exact - rough).norm() / exact.norm()).item() < bound


def test_gradients_reach_every_parameter() -> None:
    generator = small()
    generator(torch.randn(2, 8, dtype=torch.float64)).square().sum().backward()
    assert [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize("up", [True, False])
def test_derivatives_of_a_layer(up: bool, noise: bool) -> None:
    """Reference: finite differences, of first and second order. What is done in place must leave all that gradients need."""
    torch.manual_seed(0)
    layer = SynthesisLayer(0, 2, 3, dataclasses.replace(SMALL, noise=noise), 8 if up else 4, up=up).double()
    if noise:
        nn.init.constant_(layer.noise_strength, 0.3)
    x, w = torch.randn(2, 2, 4, 4, dtype=torch.float64), torch.randn(2, 8, dtype=torch.float64)
    parameters = tuple(layer.parameters())

    def squares(x: Tensor, w: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(dict(layer.named_parameters()), parameters, strict=True)), (x, w, None)).square()

    inputs = tuple(value.detach().requires_grad_(True) for value in (x, w, *parameters))
    assert torch.autograd.gradcheck(squares, inputs, fast_mode=True) and torch.autograd.gradgradcheck(squares, inputs, fast_mode=True)
