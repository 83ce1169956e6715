"""The discriminator of pairs: sizes, blocks and minibatch stddev against loops."""

import math
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from mvgan.config import Network
from mvgan.nets.discriminator import Discriminator, DiscriminatorBlock, minibatch_stddev
from mvgan.nets.generator import Generator


SMALL = Network(z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=16, precision="fp32")


@pytest.mark.parametrize(
    ("channel_base", "num_frames", "expected"), [(32768, 2, 28_864_513), (32768, 1, 28_864_129), (16384, 2, 24_001_281)]
)
def test_parameters(channel_base: int, num_frames: Literal[1, 2], expected: int) -> None:
    """Reference: counts of NVIDIA's stylegan3 repository with cfg stylegan2 at 256 px, with 6 and with 3 channels."""
    with torch.device("meta"):
        discriminator = Discriminator(Network(frames=num_frames, channel_base=channel_base), 256)
    assert sum(p.numel() for p in discriminator.parameters()) == expected


def test_the_sums_of_the_paper() -> None:
    """Reference: 9,237 parameters more for 6 channels than for 3 (ToRGB 3 * 2944 + 21, FromRGB 3 * 128); 48,776,248 at half the size."""

    def parameters(channel_base: int, num_frames: Literal[1, 2]) -> int:
        network = Network(frames=num_frames, channel_base=channel_base)
        with torch.device("meta"):
            nets = Generator(network, 256), Discriminator(network, 256)
        return sum(p.numel() for net in nets for p in net.parameters())

    assert parameters(32768, 2) - parameters(32768, 1) == 9_237 == 3 * (512 * 5 + 256 + 128) + 7 * 3 + 3 * 128
    assert parameters(16384, 2) == 48_776_248 and parameters(32768, 1) == 58_898_467


def stddev(x: np.ndarray) -> float:
    """Of a group [n, c, h, w], in numpy: position after position, then their mean."""
    return float(np.mean([math.sqrt(np.mean((v - v.mean()) ** 2) + 1e-8) for v in x.astype(np.float64).reshape(len(x), -1).T]))


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-14)])
@pytest.mark.parametrize("group", [1, 2, 3, 6])
def test_minibatch_stddev(group: int, dtype: torch.dtype, error: float) -> None:
    """Reference: numpy, group after group."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3, 4, 4))).to(dtype)
    found = minibatch_stddev(x, group)
    assert found.shape == (6, 4, 4, 4) and found.dtype == dtype and torch.equal(found[:, :3], x)
    for start in range(0, 6, group):
        part = slice(start, start + group)
        np.testing.assert_allclose(found[part, 3].numpy(), stddev(x[part].numpy()), rtol=error)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_minibatch_stddev_in_half_precision(dtype: torch.dtype) -> None:
    """Reference: float32 on the same numbers, rounded once: sums and squares are not taken in half precision."""
    x = (100 + torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))).to(dtype)
    found = minibatch_stddev(x, 3)
    assert found.dtype == dtype and torch.equal(found, minibatch_stddev(x.float(), 3).to(dtype))


def test_minibatch_stddev_needs_whole_groups() -> None:
    with pytest.raises(AssertionError, match="5 samples do not divide into groups of 2"):
        minibatch_stddev(torch.zeros(5, 1, 4, 4), 2)


def correlate_channels(x: np.ndarray, weight: np.ndarray, padding: int) -> np.ndarray:
    """Plain convolution of one sample by loops: x [c, h, w], weight [c_out, c, k, k]."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    k = weight.shape[2]
    out = np.zeros((len(weight), x.shape[1] - k + 1, x.shape[2] - k + 1))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            out[:, i, j] = np.tensordot(weight, x[:, i : i + k, j : j + k], 3)
    return out


def blur(x: np.ndarray, padding: int) -> np.ndarray:
    """The binomial filter on each channel of x [c, h, w]."""
    kernel = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    return correlate_channels(x, np.einsum("oc,ij->ocij", np.eye(len(x)), kernel), padding)


def activate(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def test_block() -> None:
    """Reference: loops: conv 3x3; filter, conv 3x3, every second sample; the skip filtered and halved, 1x1; sum over sqrt(2)."""
    torch.manual_seed(0)
    block = DiscriminatorBlock(2, 3).double()
    for parameter in (block.conv0.bias, block.conv1.bias):
        torch.nn.init.normal_(parameter)
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    weights = {name: p.detach().numpy() for name, p in block.named_parameters()}
    gain = 1 / math.sqrt(2 * 9)
    y = activate(correlate_channels(x[0].numpy(), weights["conv0.weight"] * gain, 1) + weights["conv0.bias"][:, None, None])
    y = correlate_channels(blur(y, 2), weights["conv1.weight"] * gain, 0)[:, ::2, ::2]
    y = activate(y + weights["conv1.bias"][:, None, None])
    skip = correlate_channels(blur(x[0].numpy(), 1)[:, ::2, ::2], weights["skip.weight"] / math.sqrt(2), 0)
    torch.testing.assert_close(block(x)[0].detach(), torch.from_numpy((y + skip) / math.sqrt(2)), rtol=0, atol=1e-12)


def test_only_the_group_matters() -> None:
    """A group's logits do not depend on the other groups of the batch: the same on one worker or on several."""
    torch.manual_seed(0)
    discriminator = Discriminator(SMALL, 16)
    frames = torch.randn(6, 2, 3, 16, 16)
    whole = discriminator(frames, 2)
    assert whole.shape == (6,) and whole.dtype == torch.float32
    torch.testing.assert_close(whole, torch.cat([discriminator(part, 2) for part in frames.split(2)]), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(whole, discriminator(frames, 3))


def test_both_frames_and_their_order_count() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(SMALL, 16)
    frames = torch.randn(2, 2, 3, 16, 16, requires_grad=True)
    logits = discriminator(frames, 2)
    (grad,) = torch.autograd.grad(logits.sum(), frames)
    assert grad.abs().sum(dim=(0, 2, 3, 4)).min() > 0
    assert not torch.allclose(logits, discriminator(frames.flip(1), 2))


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(SMALL, 16)
    loss: Tensor = discriminator(torch.randn(4, 2, 3, 16, 16), 2).square().sum()
    loss.backward()
    assert [name for name, p in discriminator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
