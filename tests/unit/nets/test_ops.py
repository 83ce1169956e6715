"""Modulated convolution and layers against loops over single samples, in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mvgan.config import Network
from mvgan.nets.ops import Conv2d, Linear, leaky_relu, modulated_conv2d, normalize_second_moment, num_channels
from tests.unit.nets.test_fir import BINOMIAL, correlate, insert_zeros, normal, per_map


def grouped(x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool, up: bool) -> Tensor:
    """StyleGAN2, Eq. 1-3 word for word: one kernel per sample, modulated, then demodulated, in a grouped convolution."""
    n, c_in, h, w = x.shape
    c_out, k = weight.shape[0], weight.shape[2]
    kernels = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        kernels = kernels / (kernels.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    if not up:
        y = F.conv2d(x.reshape(1, n * c_in, h, w), kernels.reshape(n * c_out, c_in, k, k), padding=k // 2, groups=n)
        return y.reshape(n, c_out, h, w)
    # Zeros between the samples and around them, convolution (the kernel turned round), low-pass filter.
    spread = per_map(x, lambda m: np.pad(insert_zeros(m)[:-1, :-1], k - 1))
    turned = kernels.flip(3, 4).reshape(n * c_out, c_in, k, k)
    y = F.conv2d(spread.reshape(1, n * c_in, *spread.shape[2:]), turned, groups=n)
    return per_map(y.reshape(n, c_out, *y.shape[2:]), lambda m: correlate(m, 4 * BINOMIAL, 1))


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(("kernel", "up"), [(3, False), (3, True), (1, False)])
def test_modulated_convolution(demodulate: bool, kernel: int, up: bool) -> None:
    """Reference: the grouped form of the paper, one kernel per sample."""
    x, weight = normal(3, 5, 6, 6), normal(4, 5, kernel, kernel, seed=1)
    styles = 1 + 0.5 * normal(3, 5, seed=2)
    found = modulated_conv2d(x, weight, styles, demodulate=demodulate, up=up)
    torch.testing.assert_close(found, grouped(x, weight, styles, demodulate, up), rtol=1e-12, atol=1e-12)


def test_demodulation_gives_unit_variance() -> None:
    """StyleGAN2, Sec. 2.2: after demodulation the outputs of unit normal inputs have a standard deviation of 1."""
    x = normal(2, 16, 64, 64)
    styles = 5 * normal(2, 16, seed=1)
    y = modulated_conv2d(x, 3 * normal(4, 16, 3, 3, seed=2), styles)[..., 1:-1, 1:-1]
    torch.testing.assert_close(y.std(dim=(2, 3)), torch.ones(2, 4, dtype=torch.float64), rtol=0, atol=0.05)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("down", [False, True])
def test_convolution(kernel: int, down: bool) -> None:
    """Reference: loops over output and input channels; with `down` the input is filtered and every second sample kept."""
    torch.manual_seed(0)
    conv = Conv2d(3, 2, kernel, down=down).double()
    torch.nn.init.normal_(conv.bias)
    x = normal(1, 3, 6, 6)
    weight, bias = conv.weight.detach().numpy() / math.sqrt(3 * kernel**2), conv.bias.detach().numpy()
    expected = np.zeros((1, 2, *([3, 3] if down else [6, 6])))
    for o in range(2):
        for i in range(3):
            m = x[0, i].numpy()
            if down:
                blurred = correlate(m, BINOMIAL, 1 + kernel // 2)
                expected[0, o] += correlate(blurred, weight[o, i], 0)[::2, ::2]
            else:
                expected[0, o] += correlate(m, weight[o, i], kernel // 2)
        expected[0, o] += bias[o]
    torch.testing.assert_close(conv(x).detach(), torch.from_numpy(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("up", [False, True])
def test_modulation_in_fp16_does_not_overflow(up: bool) -> None:
    """Reference: float64. Styles of 1e5 and kernels of 1e3 are beyond fp16, their demodulated result is not; nor are gradients."""
    x, weight, styles = normal(2, 6, 8, 8), normal(5, 6, 3, 3) * 1e3, normal(2, 6) * 1e5
    exact = modulated_conv2d(x, weight, styles, up=up)
    small, kernel, size = x.half().requires_grad_(True), weight.float().requires_grad_(True), styles.float().requires_grad_(True)
    found = modulated_conv2d(small, kernel, size, up=up)
    assert found.dtype == torch.float16 and ((found.double() - exact).norm() / exact.norm()).item() < 2e-3
    for grad in torch.autograd.grad(found.float().square().sum(), (small, kernel, size)):
        assert grad.isfinite().all() and grad.abs().sum() > 0


def test_activations_are_bounded_in_fp16_alone() -> None:
    x = torch.tensor([-6e4, -10.0, 300.0])
    assert leaky_relu(x.half()).tolist() == [-256, -2, 256] and leaky_relu(x.clone()).tolist() == [-12000, -2, 300]


def test_linear() -> None:
    """Reference: the formula of the equalised learning rate; the effective weights are N(0, 1 / in_features) for any multiplier."""
    torch.manual_seed(0)
    layer = Linear(400, 300, bias_init=1.0, lr_multiplier=0.01).double()
    x = normal(2, 400)
    effective = layer.weight.detach() * 0.01 / 20
    torch.testing.assert_close(layer(x).detach(), x @ effective.t() + 1.0, rtol=0, atol=1e-12)
    # The init of a layer is N(0, 1) / lr_multiplier, so that after both gains its variance is lr_multiplier-free.
    assert float(effective.std()) == pytest.approx(1 / 20, rel=0.02)


def test_activations() -> None:
    """By hand."""
    x = torch.tensor([[-1.0, 0.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(leaky_relu(x.clone()), torch.tensor([[-0.2, 0.0, 2.0]], dtype=torch.float64))
    torch.testing.assert_close(normalize_second_moment(x), x / math.sqrt(5 / 3), rtol=1e-7, atol=0)


def test_num_channels() -> None:
    """Reference: StyleGAN2 at 256 px: 512 up to 64 px, 256 at 128 px, 128 at 256 px."""
    assert [num_channels(Network(), 2**i) for i in range(2, 9)] == [512, 512, 512, 512, 512, 256, 128]
