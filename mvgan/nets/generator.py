"""MotionStyleGAN's generator: StyleGAN2 whose image is a frame pair of 2 x 3 channels (paper Sec. III-A); or a single frame."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mvgan.config import Network
from mvgan.nets.fir import upsample
from mvgan.nets.ops import GAIN, Linear, bounded, leaky_relu, modulated_conv2d, normalize_second_moment, num_channels
from mvgan.nets.space import by_layer


Noise = Callable[[int, int], Tensor]
"""Gives the noise map [n, 1, res, res] of the layer with this index and resolution."""

HALF_RESOLUTION = 16
"""Lowest resolution computed in bf16 or fp16: below it the work is small, and errors would reach every pixel."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def block_dtype(network: Network, resolution: int) -> torch.dtype:
    """Precision of the convolutions of a block in training."""
    return DTYPES[network.precision] if resolution >= HALF_RESOLUTION else torch.float32


class Mapping(nn.Module):
    """G_M, the mapping from z to w (eq. 1). Keeps `w_avg`, the running mean of w, for truncation."""

    w_avg: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        sizes = [network.z_dim] + [network.w_dim] * network.mapping_layers
        self.layers = nn.ModuleList(Linear(a, b, lr_multiplier=0.01, gain=GAIN) for a, b in pairwise(sizes))
        self.register_buffer("w_avg", torch.zeros(network.w_dim))

    def forward(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """z [n, z_dim] -> w [n, w_dim], drawn towards `w_avg` where `truncation` is below 1."""
        w = normalize_second_moment(z)
        for layer in self.layers:
            w = leaky_relu(layer(w))
        return w if truncation == 1 else self.w_avg.lerp(w, truncation)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias and leaky ReLU; `up` doubles the resolution."""

    noise_const: Tensor

    def __init__(self, index: int, in_channels: int, out_channels: int, network: Network, resolution: int, *, up: bool) -> None:
        super().__init__()
        self.index, self.resolution = index, resolution
        self.affine = Linear(network.w_dim, in_channels, bias_init=1.0)
        weight = torch.randn(out_channels, in_channels, 3, 3)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.noise_strength = nn.Parameter(torch.zeros([])) if network.noise else None
        self.bias = nn.Parameter(torch.zeros(out_channels))
        if network.noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.up = up

    def forward(self, x: Tensor, w: Tensor, noise: Noise | None) -> Tensor:
        """x [n, c, h, w], w [n, w_dim]; without `noise` the fixed map of this layer is used."""
        x = modulated_conv2d(x, self.weight, self.affine(w), up=self.up, gain=GAIN)
        # In place from here on: what made x does not need it for its gradient.
        if self.noise_strength is not None:
            noise_map = self.noise_const if noise is None else noise(self.index, self.resolution)
            x.add_((noise_map * (GAIN * self.noise_strength)).to(x.dtype))
        return leaky_relu(x.add_((GAIN * self.bias).to(x.dtype)[:, None, None]))


class ToFrames(nn.Module):
    """Modulated 1x1 convolution, without demodulation, to the colours of the frames."""

    def __init__(self, in_channels: int, num_colours: int, w_dim: int) -> None:
        super().__init__()
        self.affine = Linear(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(num_colours, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(num_colours))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, num_colours, h, w] in float32, where the blocks' outputs are summed."""
        y = bounded(modulated_conv2d(x, self.weight, self.affine(w) * self.weight_gain, demodulate=False))
        return y.to(self.bias.dtype) + self.bias[:, None, None]


class SynthesisBlock(nn.Module):
    """One resolution of the skip architecture: the first block starts from a learned constant."""

    def __init__(self, first_layer: int, in_channels: int, channels: int, num_colours: int, network: Network, resolution: int) -> None:
        super().__init__()
        self.dtype = block_dtype(network, resolution)
        self.const = nn.Parameter(torch.randn(channels, resolution, resolution)) if in_channels == 0 else None
        self.conv0 = None
        if self.const is None:
            self.conv0 = SynthesisLayer(first_layer, in_channels, channels, network, resolution, up=True)
        self.num_conv = 1 if self.conv0 is None else 2
        self.conv1 = SynthesisLayer(first_layer + self.num_conv - 1, channels, channels, network, resolution, up=False)
        self.to_frames = ToFrames(channels, num_colours, network.w_dim)

    def forward(
        self, x: Tensor | None, frames: Tensor | None, ws: Sequence[Tensor], noise: Noise | None, dtype: torch.dtype | None
    ) -> tuple[Tensor, Tensor]:
        """Features x and summed frames of the block before -> those of this block. ws: one w per layer."""
        dtype = dtype or self.dtype
        if self.const is not None:
            x = self.const.to(dtype).expand(ws[0].shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        else:
            assert x is not None and self.conv0 is not None
            x = self.conv0(x.to(dtype), ws[0], noise)
        x = self.conv1(x, ws[self.num_conv - 1], noise)
        new = self.to_frames(x, ws[self.num_conv])
        return x, new if frames is None else upsample(frames) + new


class Synthesis(nn.Module):
    """G_S, from w to frames (eq. 1)."""

    def __init__(self, network: Network, resolution: int) -> None:
        super().__init__()
        self.num_frames, self.resolution, self.w_dim = network.frames, resolution, network.w_dim
        blocks: list[SynthesisBlock] = []
        for log2 in range(2, int(math.log2(resolution)) + 1):
            layer = sum(block.num_conv for block in blocks)
            before = num_channels(network, 2 ** (log2 - 1)) if blocks else 0
            channels = num_channels(network, 2**log2)
            blocks.append(SynthesisBlock(layer, before, channels, 3 * network.frames, network, 2**log2))
        self.blocks = nn.ModuleList(blocks)
        self.num_conv = [block.num_conv for block in blocks]
        self.num_ws = sum(self.num_conv) + 1

    def noise_shapes(self) -> dict[int, int]:
        """Resolution of the noise map of each layer that takes one, by the layer's index."""
        layers = (module for module in self.modules() if isinstance(module, SynthesisLayer))
        return {layer.index: layer.resolution for layer in layers if layer.noise_strength is not None}

    def forward(self, ws: Tensor, noise: Noise | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """ws [n, num_ws, w_dim], or flat [n, num_ws * w_dim], or w [n, w_dim] for all layers -> frames [n, num_frames, 3, res, res].

        Frames are around [-1, 1]. noise: maps per layer; None takes the fixed ones. dtype: precision of all blocks; None takes that of
        training.
        """
        if ws.ndim == 2:
            ws = by_layer(ws, self.w_dim).expand(-1, self.num_ws, -1)
        return self.from_layers(ws.unbind(1), noise, dtype)

    def from_layers(self, ws: Sequence[Tensor], noise: Noise | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """As `forward`, of one w [n, w_dim] per layer. A tangent of one of them is carried only from its layer on."""
        x = frames = None
        layer = 0
        for block, num_conv in zip(self.blocks, self.num_conv, strict=True):
            # The last w of a block drives its ToFrames and the first convolution of the next block.
            x, frames = block(x, frames, ws[layer : layer + num_conv + 1], noise, dtype)
            layer += num_conv
        assert frames is not None
        return frames.reshape(-1, self.num_frames, 3, self.resolution, self.resolution)


class Generator(nn.Module):
    """G_P, the pair generator: [x_t, x_t+-k] = G_S(G_M(z)) (eq. 1)."""

    def __init__(self, network: Network, resolution: int) -> None:
        super().__init__()
        self.mapping = Mapping(network)
        self.synthesis = Synthesis(network, resolution)

    def forward(self, z: Tensor, truncation: float = 1.0, noise: Noise | None = None) -> Tensor:
        """z [n, z_dim] -> frames [n, num_frames, 3, res, res] around [-1, 1]."""
        return self.synthesis(self.mapping(z, truncation), noise)
