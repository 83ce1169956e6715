"""Augmentation against numpy, scipy and the published filter, in float64; frequencies against their probabilities."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation
from torch import Tensor

from mvgan.nets.augment import Augment, Transforms, bilinear, colours, draw_transforms, place


SYM6 = np.array([
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466, 0.787641141030194,
    0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
])  # fmt: skip
"""PyWavelets, `pywt.Wavelet("sym6").dec_lo`; also https://wavelets.pybytes.com/wavelet/sym6/."""

DELAY = (np.arange(12) * SYM6).sum() / SYM6.sum()
"""The mean of the filter: upsampled by it, pixel i lies at sample 2 i + DELAY."""

FIELDS = [field.name for field in dataclasses.fields(Transforms)]


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frames(n: int, size: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(n, 2, 3, size, size, generator=random(seed)) - 1


def transforms(n: int = 1, **values: Any) -> Transforms:
    """These values for each of n pairs, and nothing else."""
    return Transforms(**{name: torch.full((n,), float(values.get(name, 0))) for name in FIELDS})


def drawn(n: int, p: float, seed: int = 0) -> Transforms:
    generator = random(seed)
    return draw_transforms(
        torch.tensor(p), lambda k: torch.rand(n, k, generator=generator), lambda k: torch.randn(n, k, generator=generator)
    )


def per_map(x: Tensor, function: Any) -> Tensor:
    """`function` on each map [h, w] of frames [n, 2, 3, h, w]."""
    return torch.from_numpy(np.array([function(m) for m in x.flatten(0, 2).numpy()])).unflatten(0, x.shape[:3])


def test_filter_is_the_published_one() -> None:
    """Upsampling spreads a pixel by the filter along both axes, with a gain of sqrt 2 each; its first tap is at twice the pixel's place."""
    augment = Augment(32)
    first = augment.before + 2 * 16
    column = np.zeros(augment.up.shape[0])
    column[first : first + 12] = math.sqrt(2) * SYM6
    np.testing.assert_allclose(augment.up[:, 16].numpy(), column, rtol=0, atol=1e-15)


def test_filter_is_a_wavelet_with_six_vanishing_moments() -> None:
    """Reference: Daubechies' conditions: orthonormal under even translations, and (-1)^k h_k is orthogonal to 1, k ... k^5."""
    augment = Augment(32)
    h = augment.down[16, 32:44].numpy() * math.sqrt(2)
    assert h.sum() == pytest.approx(math.sqrt(2), abs=1e-11)
    for shift in range(6):
        assert (h[2 * shift :] * h[: 12 - 2 * shift]).sum() == pytest.approx(float(shift == 0), abs=1e-11)
    k = np.arange(12) - 5.5
    for power in range(6):
        assert abs(((-1.0) ** np.arange(12) * k**power * h).sum()) < 1e-7 * np.abs(k**power * h).sum()


@pytest.mark.parametrize("size", [8, 16, 64])
def test_nothing_happens_at_p_0(size: int) -> None:
    """To rounding: pixels and colours; in float32 too."""
    x = frames(3, size)
    torch.testing.assert_close(Augment(size)(x, drawn(3, 0.0)), x, rtol=0, atol=1e-11)
    torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(Augment(size)(x.float(), drawn(3, 0.0)), x.float(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [0, 1])
def test_mirror_and_quarter_turns(flip: int, turns: int) -> None:
    """Reference: numpy.fliplr, then numpy.rot90."""
    x = frames(2, 16)
    expected = per_map(x, lambda m: np.rot90(np.fliplr(m) if flip else m, turns))
    torch.testing.assert_close(Augment(16)(x, transforms(2, flip=flip, turns=turns)), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("x_share", "y_share"), [(0.125, 0), (-0.125, 0.125), (0.04, -0.1), (0.0624, -0.0626)])
def test_translation_by_whole_pixels(x_share: float, y_share: float) -> None:
    """Reference: numpy's reflecting padding, which does not repeat the border, and a slice; shares are rounded."""
    x, size = frames(2, 16), 16
    right, down = round(x_share * size), round(y_share * size)

    def move(m: np.ndarray) -> np.ndarray:
        return np.pad(m, 4, mode="reflect")[4 - down : 4 - down + size, 4 - right : 4 - right + size]

    found = Augment(size)(x, transforms(2, shift_x=x_share, shift_y=y_share))
    torch.testing.assert_close(found, per_map(x, move), rtol=0, atol=1e-11)


GEOMETRY: list[dict[str, float]] = [
    {"scale": 0.7},
    {"scale": -0.4},
    {"rotation": 0.5},
    {"rotation_after": -2.5},
    {"stretch": 0.5},
    {"move_x": 0.11, "move_y": -0.07},
    {"shift_x": 0.1, "scale": 0.3, "rotation": 0.4, "stretch": -0.3, "rotation_after": 1.2, "move_x": -0.05, "move_y": 0.08},
]


def paper_matrix(size: int, t: dict[str, float]) -> np.ndarray:
    """G of the paper, Appendix B: 3 x 3 matrices multiplied in the order of its listing, in pixels from the centre."""

    def translate(x: float, y: float) -> np.ndarray:
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])

    def rotate(angle: float) -> np.ndarray:  # y points down: counter-clockwise for a viewer
        return np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])

    g = translate(np.round(size * t.get("shift_x", 0)), np.round(size * t.get("shift_y", 0)))
    g = np.diag([2 ** t.get("scale", 0), 2 ** t.get("scale", 0), 1]) @ g
    g = rotate(t.get("rotation", 0)) @ g
    g = np.diag([2 ** t.get("stretch", 0), 2 ** -t.get("stretch", 0), 1]) @ g
    g = rotate(t.get("rotation_after", 0)) @ g
    return translate(size * t.get("move_x", 0), size * t.get("move_y", 0)) @ g


def sources(size: int, t: dict[str, float], places: np.ndarray) -> np.ndarray:
    """Row and column [2, m, m] of the frame that each of `places` [m] x `places` of the result shows, in pixels."""
    centre = (size - 1) / 2
    y, x = np.meshgrid(places - centre, places - centre, indexing="ij")
    column, row, _ = np.linalg.inv(paper_matrix(size, t)) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    return np.stack([row, column]).reshape(2, *x.shape) + centre


def within(size: int, t: dict[str, float], border: float) -> np.ndarray:
    """Which pixels [size, size] of the result are made of samples that all lie at most `border` pixels outside of the frame."""
    source = sources(size, t, (np.arange(2 * size + 10) - DELAY) / 2)
    good = (source.min(axis=0) >= -border) & (source.max(axis=0) <= size - 1 + border)
    return np.lib.stride_tricks.sliding_window_view(good, (12, 12)).all(axis=(2, 3))[::2, ::2]


@pytest.mark.parametrize("t", GEOMETRY, ids=lambda t: "+".join(t))
def test_geometry_of_a_ramp(t: dict[str, float]) -> None:
    """Reference: the formula. A linear ramp is resampled exactly wherever all that a pixel is made of lies within the frame."""
    size = 32
    y, x = np.mgrid[:size, :size]
    row, column = sources(size, t, np.arange(size))
    expected = 0.03 * column - 0.02 * row + 0.1
    ramp = torch.from_numpy(0.03 * x - 0.02 * y + 0.1).expand(1, 2, 3, size, size)
    found = Augment(size)(ramp, transforms(**t))[0, 1, 2].numpy()
    inside = within(size, t, -6.0)  # the filter that doubles the resolution reaches some pixels farther
    assert inside.sum() > 20
    np.testing.assert_allclose(found[inside], expected[inside], rtol=0, atol=1e-12)


def brute_force(m: np.ndarray, t: dict[str, float], pad: int) -> np.ndarray:
    """The listing of the paper word for word: reflecting padding, zero insertion, filter, bilinear lookup, filter, decimation."""
    size, padded = len(m), np.pad(m, pad, mode="reflect")

    def filtered(x: np.ndarray, taps: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            x = np.apply_along_axis(np.convolve, axis, x, taps)
        return x

    spread = np.zeros((2 * len(padded), 2 * len(padded)))
    spread[::2, ::2] = padded
    fine = filtered(spread, SYM6 * math.sqrt(2))
    centre = 2 * ((size - 1) / 2 + pad) + DELAY
    inverse = np.linalg.inv(np.diag([2, 2, 1]) @ paper_matrix(size, t) @ np.diag([0.5, 0.5, 1]))
    y, x = np.mgrid[: len(fine), : len(fine)] - centre
    column, row, _ = inverse @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    warped = ndimage.map_coordinates(fine, [row + centre, column + centre], order=1).reshape(fine.shape)
    coarse = filtered(warped, SYM6[::-1] / math.sqrt(2))
    return coarse[11 + 2 * pad :: 2, 11 + 2 * pad :: 2][:size, :size]


@pytest.mark.parametrize("t", GEOMETRY, ids=lambda t: "+".join(t))
def test_geometry_of_noise(t: dict[str, float]) -> None:
    """Reference: the paper's listing with numpy and scipy.ndimage: exact where lookups stay within 6 pixels of the frame.

    Farther out ours reflects the lookup and not the pixels, so that the filter's slight asymmetry shows: below a
    hundredth on frames blurred by 2 pixels.
    """
    size = 32
    x = frames(1, size)
    found = Augment(size)(x, transforms(**t)).numpy()
    near = within(size, t, 6.0)
    assert near.mean() > 0.3
    expected = per_map(x, lambda m: brute_force(m, t, 31)).numpy()
    np.testing.assert_allclose(found[..., near], expected[..., near], rtol=0, atol=1e-11)
    smooth = per_map(x, lambda m: ndimage.gaussian_filter(m, 2, mode="mirror"))
    difference = Augment(size)(smooth, transforms(**t)) - per_map(smooth, lambda m: brute_force(m, t, 31))
    assert difference.abs().max() < 0.01 * smooth.abs().max()


def test_bilinear() -> None:
    """Reference: scipy.ndimage.map_coordinates, the last row and column included."""
    x = torch.randn(2, 3, 5, 7, generator=random())
    row, column = (torch.rand(2, 2, 40, generator=random(1)) * torch.tensor([4.0, 6.0])[:, None, None]).unbind(0)
    row[:, :3], column[:, 1:4] = 4, 6
    expected = [[ndimage.map_coordinates(m, [r, c], order=1) for m in maps] for maps, r, c in zip(x, row, column, strict=True)]
    torch.testing.assert_close(bilinear(x, row, column), torch.from_numpy(np.array(expected)), rtol=0, atol=1e-12)


COLOURS: list[dict[str, float]] = [
    {"brightness": 0.3},
    {"contrast": -0.6},
    {"luma_flip": 1},
    {"hue": 2.0},
    {"saturation": 1.5},
    {"brightness": -0.2, "contrast": 0.5, "luma_flip": 1, "hue": -1.0, "saturation": -0.7},
]


@pytest.mark.parametrize("t", COLOURS, ids=lambda t: "+".join(t))
def test_colours(t: dict[str, float]) -> None:
    """Reference: the paper's steps one after the other: sum, product, mirroring at and rotation about the grey axis, distance from it."""
    x = frames(1, 8)
    v = np.ones(3) / math.sqrt(3)
    c = x.numpy().transpose(0, 1, 3, 4, 2) + t.get("brightness", 0)
    c = c * 2 ** t.get("contrast", 0)
    c = c - 2 * t.get("luma_flip", 0) * (c @ v)[..., None] * v
    c = Rotation.from_rotvec(t.get("hue", 0) * v).apply(c.reshape(-1, 3)).reshape(c.shape)
    mean = c.mean(axis=-1, keepdims=True)
    c = mean + 2 ** t.get("saturation", 0) * (c - mean)
    found = Augment(8)(x, transforms(**t)).numpy().transpose(0, 1, 3, 4, 2)
    np.testing.assert_allclose(found, c, rtol=0, atol=1e-11)


def test_both_frames_are_transformed_alike_and_each_pair_by_its_own_draw() -> None:
    """Swapping the frames swaps the results; a pair's result does not depend on the pairs beside it."""
    x, t, augment = frames(4, 16), drawn(4, 1.0), Augment(16)
    y = augment(x, t)
    torch.testing.assert_close(augment(x.flip(1), t), y.flip(1))
    for i in range(4):
        alone = Transforms(**{name: getattr(t, name)[i : i + 1] for name in FIELDS})
        torch.testing.assert_close(augment(x[i : i + 1], alone), y[i : i + 1])
    same = augment(x[:1].expand(4, -1, -1, -1, -1), t)
    assert all((same[i] - same[j]).abs().max() > 0.1 for i in range(4) for j in range(i))


@pytest.mark.parametrize("p", [0.2, 0.7, 1.0])
def test_frequencies(p: float) -> None:
    """Reference: the paper: each transform with probability p, a neutral choice included; some rotation with probability p.

    200,000 draws: a share is off by at most 0.0011 at one standard deviation; the bound is more than four of them.
    """
    t = drawn(200_000, p)
    share = {name: float((getattr(t, name) != 0).double().mean()) for name in FIELDS}
    rotation = 1 - math.sqrt(1 - p)
    expected = dict.fromkeys(FIELDS, p) | {"flip": p / 2, "luma_flip": p / 2, "turns": 3 * p / 4, "rotation": rotation}
    assert share == pytest.approx(expected | {"rotation_after": rotation}, abs=0.005)
    assert float(((t.rotation != 0) | (t.rotation_after != 0)).double().mean()) == pytest.approx(p, abs=0.005)
    happens = torch.stack([getattr(t, name) != 0 for name in FIELDS if not name.endswith("_y")]).double()
    correlation = torch.corrcoef(happens + 1e-9 * torch.randn(happens.shape, generator=random(5)))
    assert float((correlation - torch.eye(len(correlation))).abs().max()) < 0.012


def test_distributions() -> None:
    """Reference: the paper's distributions by a Kolmogorov-Smirnov test on 100,000 draws, and equal shares of what is whole."""
    t = drawn(100_000, 1.0)
    uniform, normal = {"shift_x": 0.125, "shift_y": 0.125}, {"scale": 0.2, "stretch": 0.2, "move_x": 0.125, "move_y": 0.125}
    uniform |= {"rotation": math.pi, "rotation_after": math.pi, "hue": math.pi}
    normal |= {"brightness": 0.2, "contrast": 0.5, "saturation": 1.0}
    for name, width in uniform.items():
        assert stats.kstest(getattr(t, name), stats.uniform(-width, 2 * width).cdf).pvalue > 1e-4, name
    for name, deviation in normal.items():
        assert stats.kstest(getattr(t, name), stats.norm(0, deviation).cdf).pvalue > 1e-4, name
    for name, choices in {"flip": 2, "turns": 4, "luma_flip": 2}.items():
        share = [float((getattr(t, name) == choice).double().mean()) for choice in range(choices)]
        assert share == pytest.approx([1 / choices] * choices, abs=0.008), name
    assert len(uniform) + len(normal) + 3 == len(FIELDS)


def test_derivatives() -> None:
    """Reference: finite differences, of first and second order, as R1 needs them."""
    torch.manual_seed(0)
    augment, t = Augment(8), drawn(1, 1.0, seed=3)
    x = frames(1, 8)[:, :1].requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: augment(x, t), (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: augment(x, t) ** 2, (x,), fast_mode=True)


def test_no_shape_and_no_step_depends_on_what_was_drawn() -> None:
    """Reference: tensors of the meta device, which hold no values: reading one back would raise, as would a shape that follows from one."""
    augment = Augment(16).to("meta")
    with torch.device("meta"):
        t = draw_transforms(torch.zeros([]), lambda k: torch.rand(4, k), lambda k: torch.randn(4, k))
        y = augment(torch.zeros(4, 2, 3, 16, 16), t)
    assert y.is_meta and y.shape == (4, 2, 3, 16, 16)


def test_places_and_colours_of_nothing() -> None:
    """Exactly the identity, so that a lookup of an untouched pair falls on samples and not beside them."""
    linear, offset = place(transforms(2), 32)
    assert torch.equal(linear, torch.eye(2).expand(2, 2, 2)) and not offset.any()
    matrix, added = colours(transforms(2))
    torch.testing.assert_close(matrix, torch.eye(3).expand(2, 3, 3), rtol=0, atol=1e-15)
    assert not added.any()
