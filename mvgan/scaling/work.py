"""The work of MotionStyleGAN's networks, counted layer by layer from their sizes: what a GPU multiplies, and what it reads and writes."""

import math
from dataclasses import dataclass
from itertools import pairwise

from mvgan.config import Network


HALF_RESOLUTION = 16
"""Lowest resolution that is computed in bf16 or fp16, as `mvgan.nets.generator` has it."""
KERNEL = 9
"""Weights of a 3x3 convolution for each pair of channels."""


@dataclass
class Work:
    """Of one sample that passes a network forward once."""

    parameters: int = 0
    multiplications: float = 0.0
    """Of the convolutions; filters are counted by what they read and write."""
    num_bytes: float = 0.0
    """Read and written by all operations on feature maps, none of them fused with another."""


class _Counter:
    def __init__(self, network: Network) -> None:
        self.network, self.work = network, Work()

    def channels(self, resolution: int) -> int:
        return min(self.network.channel_base // resolution, self.network.channel_max)

    def touch(self, resolution: int, numbers: float) -> None:
        """So many numbers of maps of a block at `resolution` are read or written."""
        half = resolution >= HALF_RESOLUTION and self.network.precision != "fp32"
        self.work.num_bytes += (2 if half else 4) * numbers

    def convolve(self, pixels: float, inputs: int, outputs: int, kernel: int) -> None:
        self.work.multiplications += pixels * inputs * outputs * kernel


def num_blocks(resolution: int) -> int:
    """Resolutions that a network goes through, from 4 on: launches of kernels are in proportion to it."""
    return int(math.log2(resolution)) - 1


def generator_work(network: Network, resolution: int) -> Work:
    """The generator's, mapping included."""
    count = _Counter(network)
    work, colours = count.work, 3 * network.frames
    sizes = [network.z_dim] + [network.w_dim] * network.mapping_layers
    work.parameters = sum((a + 1) * b for a, b in pairwise(sizes))
    before = 0
    for res in _resolutions(resolution):
        channels = count.channels(res)
        if before:
            _synthesis_layer(count, before, channels, res, up=True)
        else:
            work.parameters += channels * res**2  # the constant
        _synthesis_layer(count, channels, channels, res, up=False)
        work.parameters += (network.w_dim + 1) * channels + (channels + 1) * colours
        count.convolve(res**2, channels, colours, 1)
        count.touch(res, channels * res**2 + 7 * colours * res**2)  # convolve; bias, upsample and sum
        before = channels
    return work


def _synthesis_layer(count: _Counter, inputs: int, outputs: int, res: int, *, up: bool) -> None:
    network = count.network
    count.work.parameters += (network.w_dim + 1) * inputs + KERNEL * inputs * outputs + outputs + network.noise
    source, result = inputs * (res // 2 if up else res) ** 2, outputs * res**2
    count.convolve((res // 2 if up else res) ** 2, inputs, outputs, KERNEL)
    count.touch(res, 3 * source + result)  # scale by styles; convolve
    if up:
        count.touch(res, outputs * (res + 1) ** 2 + 2 * outputs * res * (res + 1))  # the filter along h and along w
    count.touch(res, result * 2 * (3 + network.noise))  # demodulate, noise, bias, leaky ReLU


def discriminator_work(network: Network, resolution: int) -> Work:
    """The discriminator's."""
    count = _Counter(network)
    work, first = count.work, count.channels(resolution)
    work.parameters = (3 * network.frames + 1) * first
    count.convolve(resolution**2, 3 * network.frames, first, 1)
    count.touch(resolution, 5 * first * resolution**2)
    for small, res in reversed(list(pairwise(_resolutions(resolution)))):
        _discriminator_block(count, count.channels(res), count.channels(small), res)
    last = count.channels(4)
    work.parameters += KERNEL * (last + 1) * last + last + (16 * last + 1) * last + last + 1
    count.convolve(16, last + 1, last, KERNEL)
    return work


def _discriminator_block(count: _Counter, inputs: int, outputs: int, res: int) -> None:
    source, result = inputs * res**2, outputs * (res // 2) ** 2
    count.work.parameters += (KERNEL * inputs + 1) * inputs + (KERNEL * inputs + 1) * outputs + inputs * outputs
    count.convolve(res**2, inputs, inputs, KERNEL)
    count.convolve((res // 2) ** 2, inputs, outputs, KERNEL + 1)
    count.touch(res, 6 * source)  # convolve, bias, leaky ReLU
    count.touch(res, 5 * source + 5 * result)  # filter along both axes; convolve, bias, leaky ReLU
    count.touch(res, 2.5 * source + 4 * result)  # the skip: filter and halve along both axes; convolve; sum


def _resolutions(resolution: int) -> list[int]:
    return [2**log2 for log2 in range(2, int(math.log2(resolution)) + 1)]
