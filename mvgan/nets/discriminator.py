"""The discriminator of frame pairs: StyleGAN2's residual discriminator on 2 x 3 channels (paper Sec. III-A)."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from mvgan.config import Network
from mvgan.nets.generator import block_dtype
from mvgan.nets.ops import GAIN, Conv2d, Linear, leaky_relu, num_channels


def minibatch_stddev(x: Tensor, group: int) -> Tensor:
    """Append one channel: the standard deviation within groups of `group` consecutive samples, averaged over the map.

    x [n, c, h, w] with n a multiple of `group` -> [n, c + 1, h, w]. A group is one logical shard's part of
    the batch, so that the statistic does not depend on the number of workers. It is taken at least in
    float32. Source: Karras et al. 2018, Sec. 3.
    """
    n, c, h, w = x.shape
    assert n % group == 0, f"{n} samples do not divide into groups of {group}"
    y = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(n // group, group, c, h, w)
    std = (y.var(dim=1, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    channel = std.to(x.dtype).repeat_interleave(group)[:, None, None, None].expand(n, 1, h, w)
    return torch.cat([x, channel], dim=1)


class DiscriminatorBlock(nn.Module):
    """Two convolutions and a skip, both halving the resolution; each scaled by sqrt(1/2), so that the sum keeps the variance."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv0 = Conv2d(in_channels, in_channels, 3, gain=GAIN)
        self.conv1 = Conv2d(in_channels, out_channels, 3, down=True, gain=GAIN * math.sqrt(0.5))
        self.skip = Conv2d(in_channels, out_channels, 1, bias=False, down=True, gain=math.sqrt(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """[n, in_channels, h, w] -> [n, out_channels, h / 2, w / 2]."""
        return self.skip(x) + leaky_relu(self.conv1(leaky_relu(self.conv0(x))))


class Discriminator(nn.Module):
    """D: frames [n, num_frames, 3, res, res] -> logits [n], high for real."""

    def __init__(self, network: Network, resolution: int) -> None:
        super().__init__()
        channels = [num_channels(network, 2**log2) for log2 in range(int(math.log2(resolution)), 1, -1)]
        self.dtypes = [block_dtype(network, 2**log2) for log2 in range(int(math.log2(resolution)), 2, -1)]
        self.from_frames = Conv2d(3 * network.frames, channels[0], 1, gain=GAIN)
        self.blocks = nn.ModuleList(DiscriminatorBlock(a, b) for a, b in pairwise(channels))
        self.conv = Conv2d(channels[-1] + 1, channels[-1], 3, gain=GAIN)
        self.fc = Linear(channels[-1] * 16, channels[-1], gain=GAIN)
        self.out = Linear(channels[-1], 1)

    def forward(self, frames: Tensor, group: int) -> Tensor:
        """frames [n, num_frames, 3, res, res] in [-1, 1], n a multiple of `group` -> logits [n] in float32."""
        x = frames.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        x = leaky_relu(self.from_frames(x.to(self.dtypes[0])))
        for block, dtype in zip(self.blocks, self.dtypes, strict=True):
            x = block(x.to(dtype))
        x = leaky_relu(self.conv(minibatch_stddev(x.to(self.fc.weight.dtype), group)))
        x = leaky_relu(self.fc(x.flatten(1)))
        return self.out(x)[:, 0]
