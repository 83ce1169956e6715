"""The separable binomial low-pass filter (1, 3, 3, 1) of StyleGAN2, and resampling by it (StyleGAN2, Appendix B).

CPUs take depthwise convolutions. cuDNN's kernels for those in channels_last run at some hundredth of a GPU's memory
speed, and those of their gradients slower still (docs/benchmarks.md). So GPUs take two products with banded matrices, one along each
axis: most of what they multiply is zeros, yet tensor cores are several times as fast with it, and all derivatives are
products again.
"""

import contextlib
import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


TAPS = (1.0, 3.0, 3.0, 1.0)
"""They sum to 8; the filter sums to 1 before gains."""


def low_pass(x: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """Filter [n, c, h, w]: [n, c, h + 2 padding - 3, ...]."""
    if _by_products(x):
        return _products(x, 2 * padding - 3, padding, gain)
    return F.conv2d(x, _depthwise(x, gain), padding=padding, groups=x.shape[1])


def upsample(x: Tensor) -> Tensor:
    """Double the resolution of [n, c, h, w]; a gain of 4 makes up for the inserted zeros."""
    if _by_products(x):
        return _products(x, 0, 2, 4.0, up=2)
    return F.conv_transpose2d(x, _depthwise(x, 4.0), stride=2, padding=1, groups=x.shape[1])


def downsample(x: Tensor) -> Tensor:
    """Halve the resolution of [n, c, h, w], which is even."""
    if _by_products(x):
        return _products(x, 0, 1, 1.0, down=2)
    # At least in float32: the backward of a strided depthwise convolution in bf16 is some 18 times slower on a CPU.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.conv2d(wide, _depthwise(wide, 1.0), padding=1, stride=2, groups=x.shape[1]).to(x.dtype)


def _by_products(x: Tensor) -> bool:
    return x.is_cuda


def _depthwise(x: Tensor, gain: float) -> Tensor:
    return _square(gain, x.dtype, x.device).expand(x.shape[1], 1, 4, 4)


@contextlib.contextmanager
def _plain() -> Iterator[None]:
    """What is kept may be made while sampling or within torch.func, and used in training: a plain tensor whatever goes on around."""
    with torch.inference_mode(False), torch._C._DisableFuncTorch():
        yield


@functools.lru_cache(maxsize=256)
@_plain()
def _square(gain: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[4, 4], which sums to `gain`."""
    taps = torch.tensor(TAPS) / 8
    return (gain * torch.outer(taps, taps)).to(device, dtype)


def _products(x: Tensor, more: int, before: int, gain: float, up: int = 1, down: int = 1) -> Tensor:
    """The filter along h, then along w, as matrices of [h up / down + more, h]. The result lies in memory as channels_last."""
    n, c, h, w = x.shape
    rows = _band(h, h * up // down + more, before, up, down, gain, x.dtype, x.device)
    columns = _band(w, w * up // down + more, before, up, down, 1.0, x.dtype, x.device)
    y = rows @ x.permute(0, 2, 3, 1).reshape(n, h, w * c)
    y = columns @ y.reshape(n, len(rows), w, c)
    return y.permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=256)
@_plain()
def _band(size: int, out: int, before: int, up: int, down: int, gain: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[out, size]: `up` - 1 zeros after each sample, `before` in front, correlation with gain TAPS / 8, each `down`-th kept."""
    place = torch.arange(size) * up + before - torch.arange(out)[:, None] * down
    taps = torch.tensor([*TAPS, 0.0]) * (gain / 8)
    return taps[torch.where((place >= 0) & (place < 4), place, 4)].to(device, dtype)
