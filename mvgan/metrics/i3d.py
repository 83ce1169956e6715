"""I3D, whose logits FVD compares: Inception-v1 over space and time, by the arithmetic of TensorFlow, where it was trained.

Carreira and Zisserman 2017, "Quo vadis, action recognition?"; FVD is of Unterthiner et al. 2018. Its weights are no part of
this project: mvgan.metrics.i3d_check tells whether a file has them.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvgan.config import InputError


SIZE = 224
"""Pixels of a side of the frames."""

MIN_FRAMES = 9
"""Frames are halved three times, rounded up, and the pooling before the logits takes two of what is left."""

CLASSES = 400

EPSILON = 1e-3
"""Added to the variance in batch norm."""

Triple = tuple[int, int, int]
"""Of time, height and width."""

ONE: Triple = (1, 1, 1)

MIXED = {
    "3b": (64, (96, 128), (16, 32), 32),
    "3c": (128, (128, 192), (32, 96), 64),
    "4b": (192, (96, 208), (16, 48), 64),
    "4c": (160, (112, 224), (24, 64), 64),
    "4d": (128, (128, 256), (24, 64), 64),
    "4e": (112, (144, 288), (32, 64), 64),
    "4f": (256, (160, 320), (32, 128), 128),
    "5b": (256, (160, 320), (32, 128), 128),
    "5c": (384, (192, 384), (48, 128), 128),
}
"""Channels that the four branches of each block give; in the second and third first those of the 1x1x1, then of the 3x3x3."""


class I3D(nn.Module):
    """Maps clips to logits by weights that are only ever loaded, so they take no gradient. A new one has zeros.

    The state holds the variables of the published network under their names, with dots for slashes.
    """

    def __init__(self) -> None:
        super().__init__()
        for name, step in _steps():
            self.add_module(name, step)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits [n, 400] of float clips [n, 3, t, 224, 224] in [-1, 1], t >= 9. Raises ValueError for other shapes."""
        if clips.ndim != 5 or clips.shape[1] != 3 or clips.shape[2] < MIN_FRAMES or clips.shape[3:] != (SIZE, SIZE):
            raise ValueError(f"expected clips [n, 3, t, {SIZE}, {SIZE}] of at least {MIN_FRAMES} frames, got {list(clips.shape)}")
        x = clips
        for step in self.children():
            x = step(x)
        return x.mean((2, 3, 4))


def load_i3d(variables: Mapping[str, Tensor]) -> I3D:
    """The network of `variables` under TensorFlow's names without RGB/inception_i3d/, as `features check --out` writes them.

    Weights are [cout, cin, kt, kh, kw], all others [c]. Raises InputError where one is missing, has another shape or is unknown.
    """
    network = I3D()
    state = {name.replace(".", "/"): tensor for name, tensor in network.state_dict().items()}
    for name in sorted(state.keys() | variables.keys()):
        needed, given = (list(held[name].shape) if name in held else None for held in (state, variables))
        if needed != given:
            raise InputError(
                f"variable {name} of I3D is {given or 'missing'}, expected {needed or 'none of this name'}; "
                f"give a file that `python -m jobs.features check --out` wrote"
            )
        state[name].copy_(variables[name])
    return network.eval()


def prepare(clips: Tensor) -> Tensor:
    """Clips uint8 [n, 3, t, h, w] as the network takes them: float32 [n, 3, t, 224, 224] in [-1, 1].

    The short side becomes 224 px by bilinear interpolation between pixel centres, without averaging where it shrinks; the
    long one follows in proportion, rounded down, and its middle is kept. Raises ValueError for other clips.
    """
    if clips.ndim != 5 or clips.shape[1] != 3 or clips.dtype != torch.uint8:
        raise ValueError(f"expected clips uint8 [n, 3, t, h, w], got {clips.dtype} {list(clips.shape)}")
    height, width = (side * SIZE // min(clips.shape[3:]) for side in clips.shape[3:])
    frames = F.interpolate(clips.flatten(0, 2)[:, None].float(), (height, width), mode="bilinear", align_corners=False)
    top, left = (height - SIZE) // 2, (width - SIZE) // 2
    return frames[:, 0, top : top + SIZE, left : left + SIZE].unflatten(0, clips.shape[:3]) / 127.5 - 1


def same_padding(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[int]:
    """TensorFlow's SAME padding of a window over `sizes`, as F.pad takes it: before and after, of the last dimension first.

    The output has ceil(size / stride); where the padding is odd, the larger part comes after.
    """
    padding: list[int] = []
    for size, taps, step in zip(reversed(sizes), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // step) - 1) * step + taps - size, 0)
        padding += [total // 2, total - total // 2]
    return padding


class MaxPool(nn.Module):
    """Maximum over windows with SAME padding, which never wins."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self._kernel, self._stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, same_padding(x.shape[2:], self._kernel, self._stride), value=float("-inf"))
        return F.max_pool3d(padded, self._kernel, self._stride)


class Convolution(nn.Module):
    """A convolution with SAME padding, of zeros."""

    w: Tensor
    b: Tensor | None

    def __init__(self, cin: int, cout: int, kernel: Triple = ONE, stride: Triple = ONE, bias: bool = False) -> None:
        super().__init__()
        self._kernel, self._stride = kernel, stride
        self.register_buffer("w", torch.zeros(cout, cin, *kernel))
        self.register_buffer("b", torch.zeros(cout) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, same_padding(x.shape[2:], self._kernel, self._stride))
        return F.conv3d(padded, self.w, self.b, self._stride)


class _BatchNorm(nn.Module):
    """Batch norm by stored moments, with an offset and no factor."""

    moving_mean: Tensor
    moving_variance: Tensor
    beta: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("moving_mean", "moving_variance", "beta"):
            self.register_buffer(name, torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.moving_mean, self.moving_variance, bias=self.beta, eps=EPSILON)


class _Mixed(nn.Module):
    """Four branches side by side, their channels one after another."""

    def __init__(self, name: str, cin: int) -> None:
        super().__init__()
        first, second, third, fourth = MIXED[name]
        # The published network names one variable of this block unlike all others.
        wide = "Conv3d_0a_3x3" if name == "5b" else "Conv3d_0b_3x3"
        self.add_module("Branch_0", _named(Conv3d_0a_1x1=_unit(cin, first)))
        self.add_module("Branch_1", _two_units(cin, second, "Conv3d_0b_3x3"))
        self.add_module("Branch_2", _two_units(cin, third, wide))
        self.add_module("Branch_3", _named(MaxPool3d_0a_3x3=MaxPool((3, 3, 3), ONE), Conv3d_0b_1x1=_unit(cin, fourth)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], 1)


def _steps() -> Iterator[tuple[str, nn.Module]]:
    """All that a clip goes through, under the published names."""
    yield "Conv3d_1a_7x7", _unit(3, 64, (7, 7, 7), (2, 2, 2))
    yield "MaxPool3d_2a_3x3", MaxPool((1, 3, 3), (1, 2, 2))
    yield "Conv3d_2b_1x1", _unit(64, 64)
    yield "Conv3d_2c_3x3", _unit(64, 192, (3, 3, 3))
    yield "MaxPool3d_3a_3x3", MaxPool((1, 3, 3), (1, 2, 2))
    channels = 192
    for name, (first, second, third, fourth) in MIXED.items():
        if name == "4b":
            yield "MaxPool3d_4a_3x3", MaxPool((3, 3, 3), (2, 2, 2))
        if name == "5b":
            yield "MaxPool3d_5a_2x2", MaxPool((2, 2, 2), (2, 2, 2))
        yield f"Mixed_{name}", _Mixed(name, channels)
        channels = first + second[-1] + third[-1] + fourth
    yield (
        "Logits",
        _named(AvgPool3d_0a_7x7=nn.AvgPool3d((2, 7, 7), stride=1), Conv3d_0c_1x1=_named(conv_3d=Convolution(channels, CLASSES, bias=True))),
    )


def _unit(cin: int, cout: int, kernel: Triple = ONE, stride: Triple = ONE) -> nn.Sequential:
    return _named(conv_3d=Convolution(cin, cout, kernel, stride), batch_norm=_BatchNorm(cout), relu=nn.ReLU())


def _two_units(cin: int, widths: tuple[int, int], name: str) -> nn.Sequential:
    return _named(**{"Conv3d_0a_1x1": _unit(cin, widths[0]), name: _unit(*widths, (3, 3, 3))})


def _named(**steps: nn.Module) -> nn.Sequential:
    sequence = nn.Sequential()
    for name, step in steps.items():
        sequence.add_module(name, step)
    return sequence
