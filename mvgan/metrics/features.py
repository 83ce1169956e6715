"""Seeded features of frame pairs and of clips: fixed random networks, for following one training. Neither FID nor FVD.

Random filters with rectification and pooling tell colours, layout, sharpness and texture apart well enough to rank the
states of one training, at no download. Motion is small beside content, so it has a branch of its own, which sees only
the differences between frames.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


LABEL = "seeded features, not FID"
CLIP_LABEL = "seeded features of clips, not FVD"

CONTENT, MOTION = 64, 32
"""Features of the pair as it is, and of the difference of its frames."""

CLIP_CONTENT, CLIP_MOTION = 32, 64
"""Features of a clip's mean frame, and of the differences of its consecutive frames."""

WIDTHS = (24, 32, 48)
"""Channels of the three convolutions of a branch, each of stride 2."""

GRID = 4
"""Responses are averaged over GRID x GRID cells of the picture, which keeps the layout."""

MOTION_GAIN = 8.0
"""Factor on the difference of the frames, whose size is some hundredths where that of a frame is about a half.

A tanh follows, or frames that do not belong together (as an untrained generator gives) would outweigh all content."""

MAX_SIZE = 64
"""Larger frames are first averaged down to this size."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions without TF32, torch's default for them on a GPU: it would move figures that are to be compared."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, benchmark=False, deterministic=cudnn.deterministic, allow_tf32=False):
        yield


class _Features(ABC):
    """What both kinds share: batches, ranges and sizes of frames."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = device

    @torch.no_grad()
    def __call__(self, frames: Tensor, batch: int = 128) -> Tensor:
        """Features of `frames` [n, t, 3, h, w], uint8 or in [-1, 1] (clamped to it), on the CPU."""
        parts = [self._features(_averaged_down(frames[i : i + batch].to(self._device))) for i in range(0, len(frames), batch)]
        return torch.cat(parts).cpu()

    @property
    def sha256(self) -> str:
        """Hash of the filters, by which a figure says what it was measured with."""
        tensors = [tensor for branch in self._branches for tensor in branch.filters]
        return hashlib.sha256(b"".join(tensor.cpu().contiguous().numpy().round(4).tobytes() for tensor in tensors)).hexdigest()

    @property
    @abstractmethod
    def _branches(self) -> "tuple[_Branch, ...]": ...

    @abstractmethod
    def _features(self, x: Tensor) -> Tensor:
        """Features of frames in [-1, 1], of at most MAX_SIZE a side."""


class PairFeatures(_Features):
    """Maps frame pairs [n, 2, 3, h, w] to features [n, 96], float32: the first 64 of content, the others of motion.

    The weights follow from `seed` alone, by numpy's Philox, so they are the same on every machine.
    """

    dim = CONTENT + MOTION

    def __init__(self, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        rng = np.random.Generator(np.random.Philox(seed))
        self._content = _Branch(6, CONTENT, rng, device)
        self._motion = _Branch(3, MOTION, rng, device)

    def __call__(self, frames: Tensor, batch: int = 128) -> Tensor:
        """As _Features has it; single frames [n, 1, 3, h, w] count as pairs of equal ones. Raises ValueError for other shapes."""
        if frames.ndim != 5 or frames.shape[1] not in (1, 2) or frames.shape[2] != 3:
            raise ValueError(f"expected frame pairs [n, 2, 3, h, w], or single frames, got {list(frames.shape)}")
        return super().__call__(frames.expand(-1, 2, -1, -1, -1), batch)

    @property
    def _branches(self) -> "tuple[_Branch, ...]":
        return self._content, self._motion

    def _features(self, x: Tensor) -> Tensor:
        return torch.cat([self._content(x.flatten(1, 2)), self._motion(torch.tanh(MOTION_GAIN * (x[:, 1] - x[:, 0])))], 1)


class ClipFeatures(_Features):
    """Maps clips [n, t, 3, h, w] of t >= 3 frames to features [n, 96], float32: the first 32 of content, the others of motion.

    Content is that of the mean frame. Motion is what filters over space and time see of the differences between
    consecutive frames: the mean and the deviation over time of their responses. Weights as those of PairFeatures.
    """

    dim = CLIP_CONTENT + CLIP_MOTION

    def __init__(self, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        rng = np.random.Generator(np.random.Philox(seed))
        self._content = _Branch(3, CLIP_CONTENT, rng, device)
        self._motion = _Branch(3, CLIP_MOTION, rng, device, dims=3)

    def __call__(self, frames: Tensor, batch: int = 64) -> Tensor:
        """As _Features has it. Raises ValueError for other shapes."""
        if frames.ndim != 5 or frames.shape[1] < 3 or frames.shape[2] != 3:
            raise ValueError(f"expected clips [n, t, 3, h, w] of at least 3 frames, got {list(frames.shape)}")
        return super().__call__(frames, batch)

    @property
    def _branches(self) -> "tuple[_Branch, ...]":
        return self._content, self._motion

    def _features(self, x: Tensor) -> Tensor:
        changes = torch.tanh(MOTION_GAIN * (x[:, 1:] - x[:, :-1])).transpose(1, 2)
        return torch.cat([self._content(x.mean(1)), self._motion(changes)], 1)


def _averaged_down(frames: Tensor) -> Tensor:
    """Frames in [-1, 1], of at most MAX_SIZE a side."""
    if frames.shape[-1] > MAX_SIZE or frames.shape[-2] > MAX_SIZE:
        # One after another: a batch of long clips at full size would fill gigabytes as floats.
        return torch.cat([F.adaptive_avg_pool2d(_in_range(clip)[0], MAX_SIZE)[None] for clip in frames.split(1)])
    return _in_range(frames)


def _in_range(frames: Tensor) -> Tensor:
    return frames.float() / 127.5 - 1 if frames.dtype == torch.uint8 else frames.float().clamp(-1, 1)


class _Branch:
    """Three random convolutions over `dims` dimensions, of stride 2 in space and 1 in time.

    The responses of each, on a coarse grid (in time their mean and deviation), are mixed by a random orthonormal projection.
    """

    def __init__(self, channels: int, features: int, rng: np.random.Generator, device: torch.device | str, dims: int = 2) -> None:
        sizes, taps = [channels, *WIDTHS], (3,) * dims
        self._weights = [_normal(rng, device, n, m, *taps) * (2 / (3**dims * m)) ** 0.5 for m, n in pairwise(sizes)]
        self._biases = [_normal(rng, device, n) * 0.2 for n in WIDTHS]
        responses = (sum(WIDTHS) * GRID**2 * (dims - 1), features)
        self._mix = torch.linalg.qr(_normal(rng, "cpu", *responses).double()).Q.float().to(device)

    @property
    def filters(self) -> list[Tensor]:
        """All weights and biases; the projection follows from the same seed, up to rounding."""
        return [*self._weights, *self._biases]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.mm(torch.cat([pooled for response in self._responses(x) for pooled in _pooled(response)], 1), self._mix)

    def _responses(self, x: Tensor) -> Iterator[Tensor]:
        for weight, bias in zip(self._weights, self._biases, strict=True):
            if x.ndim == 5:
                x = F.conv3d(x, weight, bias, stride=(1, 2, 2), padding=1)
            else:
                x = F.conv2d(x, weight, bias, stride=2, padding=1)
            x = F.leaky_relu(x, 0.2)
            yield x


def _pooled(response: Tensor) -> list[Tensor]:
    """[n, c, h, w] on a coarse grid; of [n, c, t, h, w] the mean and the deviation over time: each [n, c * GRID**2]."""
    if response.ndim == 4:
        return [F.adaptive_avg_pool2d(response, GRID).flatten(1)]
    grid = F.adaptive_avg_pool3d(response, (response.shape[2], GRID, GRID))
    return [grid.mean(2).flatten(1), grid.std(2).flatten(1)]


def _normal(rng: np.random.Generator, device: torch.device | str, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(device)
