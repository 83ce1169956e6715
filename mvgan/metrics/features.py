"""Seeded features of frame pairs: a fixed random convolution network. Not FID: for following one training, not for papers.

Random filters with rectification and pooling tell colours, layout, sharpness and texture apart well enough to rank the
states of one training, at no download. Motion is small beside content, so it has a branch of its own, which sees only
the difference between the frames.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


LABEL = "seeded features, not FID"

CONTENT, MOTION = 64, 32
"""Features of the pair as it is, and of the difference of its frames."""

WIDTHS = (24, 32, 48)
"""Channels of the three convolutions of a branch, each of stride 2."""

GRID = 4
"""Responses are averaged over GRID x GRID cells of the picture, which keeps the layout."""

MOTION_GAIN = 8.0
"""Factor on the difference of the frames, whose size is some hundredths where that of a frame is about a half.

A tanh follows, or frames that do not belong together (as an untrained generator gives) would outweigh all content."""

MAX_SIZE = 64
"""Larger frames are first averaged down to this size."""


class PairFeatures:
    """Maps frame pairs to features [n, 96], float32: the first 64 of content, the others of motion.

    The weights follow from `seed` alone, by numpy's Philox, so they are the same on every machine.
    """

    dim = CONTENT + MOTION

    def __init__(self, seed: int = 0, device: torch.device | str = "cpu") -> None:
        rng = np.random.Generator(np.random.Philox(seed))
        self._content = _Branch(6, CONTENT, rng, device)
        self._motion = _Branch(3, MOTION, rng, device)
        self._device = device

    @torch.no_grad()
    def __call__(self, frames: Tensor, batch: int = 128) -> Tensor:
        """Features of `frames` [n, 2, 3, h, w], uint8 or in [-1, 1] (clamped to it), on the CPU."""
        if frames.ndim != 5 or frames.shape[1:3] != (2, 3):
            raise ValueError(f"expected frame pairs [n, 2, 3, h, w], got {list(frames.shape)}")
        parts = [self._features(frames[i : i + batch].to(self._device)) for i in range(0, len(frames), batch)]
        return torch.cat(parts).cpu()

    def _features(self, frames: Tensor) -> Tensor:
        x = frames.float() / 127.5 - 1 if frames.dtype == torch.uint8 else frames.float().clamp(-1, 1)
        x = x.flatten(1, 2)
        if x.shape[-1] > MAX_SIZE or x.shape[-2] > MAX_SIZE:
            x = F.adaptive_avg_pool2d(x, MAX_SIZE)
        return torch.cat([self._content(x), self._motion(torch.tanh(MOTION_GAIN * (x[:, 3:] - x[:, :3])))], 1)


class _Branch:
    """Three random convolutions; the responses of each, on a coarse grid, are mixed by a random orthonormal projection."""

    def __init__(self, channels: int, features: int, rng: np.random.Generator, device: torch.device | str) -> None:
        sizes = [channels, *WIDTHS]
        self._weights = [_normal(rng, device, n, m, 3, 3) * (2 / (9 * m)) ** 0.5 for m, n in pairwise(sizes)]
        self._biases = [_normal(rng, device, n) * 0.2 for n in WIDTHS]
        responses = (sum(WIDTHS) * GRID**2, features)
        self._mix = torch.linalg.qr(_normal(rng, "cpu", *responses).double()).Q.float().to(device)

    def __call__(self, x: Tensor) -> Tensor:
        pooled = torch.cat([F.adaptive_avg_pool2d(response, GRID).flatten(1) for response in self._responses(x)], 1)
        return torch.mm(pooled, self._mix)

    def _responses(self, x: Tensor) -> Iterator[Tensor]:
        for weight, bias in zip(self._weights, self._biases, strict=True):
            x = F.leaky_relu(F.conv2d(x, weight, bias, stride=2, padding=1), 0.2)
            yield x


def _normal(rng: np.random.Generator, device: torch.device | str, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(device)
