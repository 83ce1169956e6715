"""Augmentation of frame pairs: pixel blitting, geometry and colour, differentiable any number of times.

Source: Karras et al. 2020, Training Generative Adversarial Networks with Limited Data (StyleGAN2-ADA), Appendix B.
Both frames of a pair are always transformed alike, so that the motion between them stays what it is.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn


Random = Callable[[int], Tensor]
"""Gives that many random numbers for each of n pairs, [n, count]."""

# Scaling filter of Daubechies' least asymmetric wavelet with 6 vanishing moments (sym6), as PyWavelets lists it.
_SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466, 0.787641141030194,
    0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
_TAPS = len(_SYM6)

MAX_SHIFT = 0.125
"""Longest integer translation, as a share of the frame."""


@dataclass(frozen=True)
class Transforms:
    """What is done to each of n pairs, in this order; [n] each, and 0 leaves a pair as it is."""

    flip: Tensor
    """1 mirrors left and right."""
    turns: Tensor
    """Quarter turns, counter-clockwise: 0 to 3."""
    shift_x: Tensor
    """Translation to the right as a share of the frame, rounded to whole pixels."""
    shift_y: Tensor
    """Translation downwards, likewise."""
    scale: Tensor
    """log2 of the isotropic scale; above 0 enlarges."""
    rotation: Tensor
    """Rotation before the stretching, in radians, counter-clockwise."""
    stretch: Tensor
    """log2 of the scale of x and of 1 / that of y."""
    rotation_after: Tensor
    """Rotation after the stretching."""
    move_x: Tensor
    """Translation to the right as a share of the frame, not rounded."""
    move_y: Tensor
    """Translation downwards, likewise."""
    brightness: Tensor
    """Added to all colours."""
    contrast: Tensor
    """log2 of the factor of all colours."""
    luma_flip: Tensor
    """1 turns the mean of the three colours into its negative."""
    hue: Tensor
    """Rotation about the grey axis, in radians."""
    saturation: Tensor
    """log2 of the factor of a colour's distance from grey."""


def draw_transforms(p: Tensor, uniform: Random, normal: Random) -> Transforms:
    """Transforms of n pairs, each applied with probability `p`, a scalar in [0, 1].

    uniform and normal give U(0, 1) and N(0, 1). Shapes do not depend on what is drawn, and nothing is read back from the device.
    """
    chances = iter(uniform(13).unbind(1))
    u, e = iter(uniform(8).unbind(1)), iter(normal(7).unbind(1))
    turning = 1 - (1 - p).sqrt()  # two rotations, of which at least one happens with probability p

    def some(*values: Tensor, chance: Tensor = p) -> Iterator[Tensor]:
        happens = next(chances) < chance
        return (torch.where(happens, value, 0) for value in values)

    def angle() -> Tensor:
        return math.pi * (2 * next(u) - 1)

    return Transforms(
        *some((2 * next(u)).floor()),
        *some((4 * next(u)).floor()),
        *some(MAX_SHIFT * (2 * next(u) - 1), MAX_SHIFT * (2 * next(u) - 1)),
        *some(0.2 * next(e)),
        *some(angle(), chance=turning),
        *some(0.2 * next(e)),
        *some(angle(), chance=turning),
        *some(0.125 * next(e), 0.125 * next(e)),
        *some(0.2 * next(e)),
        *some(0.5 * next(e)),
        *some((2 * next(u)).floor()),
        *some(angle()),
        *some(next(e)),
    )


def blit(x: Tensor, t: Transforms) -> Tensor:
    """Mirror and turn x [n, c, size, size], pixel by pixel. Translations by whole pixels are part of `place`."""

    def where(condition: Tensor, changed: Tensor, x: Tensor) -> Tensor:
        return torch.where(condition[:, None, None, None], changed, x)

    x = where(t.flip == 1, x.flip(3), x)
    x = where(t.turns % 2 == 1, x.transpose(2, 3), x)
    x = where((t.turns == 1) | (t.turns == 2), x.flip(2), x)
    return where(t.turns >= 2, x.flip(3), x)


def place(t: Transforms, size: int) -> tuple[Tensor, Tensor]:
    """Where each place of the result lies in the frame: linear part [n, 2, 2] and offset [n, 2], of (x, y) in pixels from the centre."""

    def rotation(angle: Tensor) -> Tensor:
        c, s = angle.cos(), angle.sin()
        return torch.stack([torch.stack([c, -s], 1), torch.stack([s, c], 1)], 1)

    factors = torch.stack([(-t.scale - t.stretch).exp2(), (t.stretch - t.scale).exp2()], 1)
    # Undoes the last transform first. y points down, so a counter-clockwise rotation by an angle is undone by this matrix.
    linear = rotation(t.rotation) * factors[:, None] @ rotation(t.rotation_after)
    move = size * torch.stack([t.move_x, t.move_y], 1)
    shift = (size * torch.stack([t.shift_x, t.shift_y], 1)).round()
    return linear, -(linear @ move[:, :, None])[:, :, 0] - shift


def colours(t: Transforms) -> tuple[Tensor, Tensor]:
    """The colour transforms of all pairs as one: matrix [n, 3, 3] and offset [n, 3].

    Along the grey axis a colour is shifted, scaled and flipped; across it, scaled and rotated.
    """
    ones = torch.ones_like(t.hue)[:, None, None]
    grey = ones.expand(-1, 3, 3) / 3
    across = torch.eye(3, dtype=t.hue.dtype, device=t.hue.device) - grey
    # The cross product with the unit vector of the grey axis.
    turn = (across.roll(1, 1) - across.roll(-1, 1)) / math.sqrt(3)
    along = t.contrast.exp2() * (1 - 2 * t.luma_flip)
    size = (t.contrast + t.saturation).exp2()
    c, s = (size * t.hue.cos())[:, None, None], (size * t.hue.sin())[:, None, None]
    return along[:, None, None] * grey + c * across + s * turn, (along * t.brightness)[:, None].expand(-1, 3)


def _upsampling(size: int, margin: int) -> Tensor:
    """Matrix [samples, size] that extends a line of pixels by `margin` reflected ones on either side and doubles its resolution."""
    pixels = torch.arange(-margin, size + margin)
    mirrored = size - 1 - (pixels % (2 * size - 2) - (size - 1)).abs()
    taps = math.sqrt(2) * torch.tensor(_SYM6, dtype=torch.float64)
    matrix = torch.zeros(2 * len(pixels) + _TAPS - 2, size, dtype=torch.float64)
    for i, pixel in enumerate(mirrored.tolist()):
        matrix[2 * i : 2 * i + _TAPS, pixel] += taps
    # Only samples that all their taps reach.
    return matrix[_TAPS - 2 : 2 * len(pixels)].to(torch.get_default_dtype())


def _downsampling(size: int) -> Tensor:
    """Matrix [size, samples] that halves the resolution; it undoes the upsampling, since the filter is orthogonal."""
    matrix = torch.zeros(size, 2 * size + _TAPS - 2, dtype=torch.float64)
    for i in range(size):
        matrix[i, 2 * i : 2 * i + _TAPS] = torch.tensor(_SYM6, dtype=torch.float64) / math.sqrt(2)
    return matrix.to(torch.get_default_dtype())


def bilinear(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """x [n, c, h, w] at fractional indices row and column [n, ...], each within the map -> [n, c, ...].

    By gathering: unlike grid_sample, its backward exists in a deterministic form on every device.
    """
    h, w = x.shape[2:]
    top, left = row.floor().clamp(0, h - 2), column.floor().clamp(0, w - 2)
    down, right = (row - top).flatten(1)[:, None], (column - left).flatten(1)[:, None]
    index, flat = (top * w + left).long().flatten(1)[:, None], x.flatten(2)

    def corner(step: int) -> Tensor:
        return flat.gather(2, (index + step).expand(-1, x.shape[1], -1))

    y = corner(0).lerp(corner(1), right).lerp(corner(w).lerp(corner(w + 1), right), down)
    return y.unflatten(2, row.shape[1:])


class Augment(nn.Module):
    """Applies transforms to frame pairs of one resolution.

    All geometry but mirroring and quarter turns is one bilinear lookup at twice the resolution, between orthogonal low-pass
    filters. The resampling is done by matrices, which hold the reflection at the border too; what lies beyond their
    margin is found by reflecting the place that is looked up, so that no shape depends on what was drawn.
    """

    up: Tensor
    down: Tensor

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        # Room for the filter and for the longest integer translation: where nothing else is drawn, pixels stay exact.
        margin = math.ceil(MAX_SHIFT * resolution) + _TAPS // 2 - 1
        self.register_buffer("up", _upsampling(resolution, margin), persistent=False)
        self.register_buffer("down", _downsampling(resolution), persistent=False)
        self.before = 2 * margin - (_TAPS - 2)
        # Pixel i lies at sample 2 i + delay: the mean of the filter, which is not quite symmetric.
        self.delay = sum(k * tap for k, tap in enumerate(_SYM6)) / sum(_SYM6)

    def forward(self, frames: Tensor, transforms: Transforms) -> Tensor:
        """frames [n, num_frames, 3, res, res] around [-1, 1] -> the same shape, colours not clipped."""
        x = self._warp(blit(frames.flatten(1, 2), transforms), transforms).unflatten(1, frames.shape[1:3])
        matrix, offset = colours(transforms)
        return torch.einsum("nij,ntjhw->ntihw", matrix, x) + offset[:, None, :, None, None]

    def _warp(self, x: Tensor, transforms: Transforms) -> Tensor:
        linear, offset = place(transforms, self.resolution)
        # Between samples, not pixels; counted from the first sample, so that whole numbers stay whole.
        centre = self.resolution - 1 + self.delay
        offset = 2 * offset + centre - (linear * centre).sum(dim=2)
        sample = torch.arange(self.down.shape[1], dtype=x.dtype, device=x.device)
        (xx, xy), (yx, yy) = (axis.unbind(1) for axis in linear[..., None, None].unbind(1))
        column = xx * sample + (xy * sample[:, None] + offset[:, 0, None, None])
        row = yx * sample + (yy * sample[:, None] + offset[:, 1, None, None])
        x = bilinear(self.up @ x @ self.up.t(), self._inside(row), self._inside(column))
        return self.down @ x @ self.down.t()

    def _inside(self, sample: Tensor) -> Tensor:
        """Index into the upsampled map; places outside of it are reflected at the border pixels of the frame."""
        span = 2 * (self.resolution - 1)
        reflected = span - ((sample - self.delay) % (2 * span) - span).abs() + self.delay
        index = sample + self.before
        return torch.where((index >= 0) & (index <= self.up.shape[0] - 1), index, reflected + self.before)
