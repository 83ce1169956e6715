"""Discriminators of stage 3: D_V and D_R, multi-scale 3-D PatchGANs on 6 channels (paper Sec. III-C), and D_I on single frames."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def with_first_frame(clips: Tensor) -> Tensor:
    """Input of D_V: clips [n, t, 3, h, w] with their first frame repeated -> [n, 6, t, h, w]."""
    return torch.cat([clips[:, :1].expand_as(clips), clips], dim=2).transpose(1, 2)


def with_reverse(clips: Tensor) -> Tensor:
    """Input of D_R (eq. 13): clips [n, t, 3, h, w] with the same clips reversed -> [n, 6, t, h, w]."""
    return torch.cat([clips, clips.flip(1)], dim=2).transpose(1, 2)


class PatchDiscriminator(nn.Module):
    """One scale: five convolutions of size 4 each way (`conv` is of 2 or 3 dimensions), three with stride 2; a score per patch."""

    def __init__(self, conv: type[nn.Conv2d] | type[nn.Conv3d], in_channels: int, channels: int) -> None:
        super().__init__()
        sizes = [(in_channels, channels, 2), (channels, 2 * channels, 2), (2 * channels, 4 * channels, 2), (4 * channels, 8 * channels, 1)]
        self.convs = nn.ModuleList(conv(a, b, 4, stride=stride, padding=2) for a, b, stride in sizes)
        self.out = conv(8 * channels, 1, 4, padding=2)
        for layer in (*self.convs, self.out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[n, in_channels, (t,) h, w] -> scores [n, 1, (t',) h', w']."""
        for index, conv in enumerate(self.convs):
            x = conv(x)
            x = F.leaky_relu(x if index == 0 else F.instance_norm(x), 0.2)
        return self.out(x)


class VideoDiscriminator(nn.Module):
    """D_V or D_R: `scales` PatchDiscriminators, each on half the size of the one before.

    Source: the released code, with 64 channels and 2 scales (22,136,706 parameters).
    """

    def __init__(self, channels: int, scales: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(nn.Conv3d, 6, channels) for _ in range(scales))

    def forward(self, x: Tensor) -> list[Tensor]:
        """[n, 6, t, h, w] in [-1, 1] -> one map of scores [n, 1, t', h', w'] per scale, finest first."""
        scores = []
        for index, scale in enumerate(self.scales):
            if index:
                # Time is kept up to 16 frames, so that short clips still differ in it.
                x = _average(x, time_stride=1 if x.shape[2] <= 16 else 2)
            scores.append(scale(x))
        return scores


class ImageDiscriminator(nn.Module):
    """D_I: the same on single frames, of which the first of a generated video is the real one (paper Sec. IV, Table IV)."""

    def __init__(self, channels: int, scales: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(nn.Conv2d, 3, channels) for _ in range(scales))

    def forward(self, x: Tensor) -> list[Tensor]:
        """[n, 3, h, w] in [-1, 1] -> one map of scores [n, 1, h', w'] per scale, finest first."""
        scores = []
        for index, scale in enumerate(self.scales):
            if index:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            scores.append(scale(x))
        return scores


def _average(x: Tensor, time_stride: int) -> Tensor:
    """Means over 3x3x3 neighbours within [n, c, t, h, w], with stride 2 in space.

    The same as avg_pool3d without its padding, but that one has no deterministic backward on a GPU.
    """
    x = F.avg_pool2d(x.flatten(1, 2), 3, stride=2, padding=1, count_include_pad=False).unflatten(1, x.shape[1:3])
    rows = F.avg_pool2d(x.flatten(3), (3, 1), stride=(time_stride, 1), padding=(1, 0), count_include_pad=False)
    return rows.unflatten(3, x.shape[3:])
