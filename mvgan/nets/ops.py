"""Layers of StyleGAN2 in plain torch: equalised learning rate, modulated convolution.

Source: Karras et al. 2020, Analyzing and Improving the Image Quality of StyleGAN (StyleGAN2).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvgan.config import Network
from mvgan.nets.fir import downsample, low_pass


GAIN = math.sqrt(2)
"""Gain of a leaky ReLU that keeps the variance of its input."""


CLAMP = 256.0
"""Bound on activations in fp16, whose numbers end at 65504 (StyleGAN2-ADA's conv_clamp)."""


def num_channels(network: Network, resolution: int) -> int:
    """Feature channels of generator and discriminator at `resolution`."""
    return min(network.channel_base // resolution, network.channel_max)


def bounded(x: Tensor) -> Tensor:
    """Activations of a layer: in fp16 within CLAMP, else as they are."""
    return x.clamp(-CLAMP, CLAMP) if x.dtype == torch.float16 else x


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2 in place, bounded; `x` is the fresh result of an operation whose gradient does not need it.

    A positive gain passes through it, so the layer before it applies GAIN to small tensors.
    """
    return bounded(F.leaky_relu(x, 0.2, inplace=True))


def normalize_second_moment(x: Tensor) -> Tensor:
    """Scale each row of `x` [n, d] to a mean square of 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class Linear(nn.Module):
    """Fully connected layer with equalised learning rate.

    `lr_multiplier` scales weights at run time, so that Adam moves them that much slower. `gain` scales the result.
    Source: Karras et al. 2018 (progressive GAN), Sec. 4.1.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias_init: float = 0.0, lr_multiplier: float = 1.0, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))
        self.weight_gain = gain * lr_multiplier / math.sqrt(in_features)
        self.bias_gain = gain * lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """[n, in_features] -> [n, out_features]."""
        return F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)


def modulated_conv2d(x: Tensor, weight: Tensor, styles: Tensor, *, demodulate: bool = True, up: bool = False, gain: float = 1.0) -> Tensor:
    """Convolve each sample with its own style-scaled, demodulated kernel.

    The styles scale the inputs and the demodulation scales the outputs, which gives the grouped
    convolution of the paper without one kernel per sample. Only kernels of one pixel that are not demodulated are scaled instead.

    x [n, c_in, h, w], weight [c_out, c_in, k, k] with k odd, styles [n, c_in], gains around 1.
    With `up` the result has twice the resolution, low-pass filtered. The norm is taken in float32; `gain` scales a demodulated
    result. In fp16 styles and kernels are first brought to sizes of 1, which demodulation takes out again.
    Source: StyleGAN2, Eq. 1 and 3; StyleGAN2-ADA for fp16.
    """
    if weight.shape[2] == 1 and not (demodulate or up):
        return _modulated_product(x, weight.flatten(1) * styles[:, None, :])
    if demodulate and x.dtype == torch.float16:
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
        weight = weight / (weight.abs().amax(dim=(1, 2, 3), keepdim=True) * math.sqrt(weight[0].numel()))
    scaled = x * styles.to(x.dtype)[:, :, None, None]
    kernel = weight.to(x.dtype)
    if up:
        # As a copy: on CPUs it costs less than what the gradient of a view takes.
        turned = kernel.transpose(0, 1).contiguous(memory_format=torch.channels_last)
        y = low_pass(F.conv_transpose2d(scaled, turned, stride=2), padding=1, gain=4.0)
    else:
        y = F.conv2d(scaled, kernel, padding=weight.shape[2] // 2)
    if not demodulate:
        return y
    norm = styles.square() @ weight.square().sum(dim=(2, 3)).t()
    return y * (gain * (norm + 1e-8).rsqrt()).to(y.dtype)[:, :, None, None]


def _modulated_product(x: Tensor, kernels: Tensor) -> Tensor:
    """x [n, c_in, h, w], kernels [n, c_out, c_in] -> [n, c_out, h, w], both as channels_last.

    Kernels of one pixel are small: to scale them takes less than to scale x, forward and backward.
    """
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
    return (pixels @ kernels.to(x.dtype).transpose(1, 2)).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class Conv2d(nn.Module):
    """Convolution with equalised learning rate; `down` filters and halves the resolution first, `gain` scales the result."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = True, down: bool = False, gain: float = 1.0
    ) -> None:
        super().__init__()
        weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.gain = gain
        self.weight_gain = gain / math.sqrt(in_channels * kernel_size**2)
        self.padding = kernel_size // 2
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        """[n, in_channels, h, w] -> [n, out_channels, h, w], or half of h and w with `down`."""
        kernel = (self.weight * self.weight_gain).to(x.dtype)
        bias = None if self.bias is None else (self.bias * self.gain).to(x.dtype)
        if not self.down:
            return F.conv2d(x, kernel, bias, padding=self.padding)
        if self.padding == 0:
            return F.conv2d(downsample(x), kernel, bias)
        return F.conv2d(low_pass(x, padding=2), kernel, bias, stride=2)
