"""I3D: its variables, its arithmetic against TensorFlow's formulas and against a plain writing of the paper, its input."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mvgan.config import InputError
from mvgan.metrics.i3d import I3D, Convolution, MaxPool, Triple, load_i3d, prepare
from mvgan.metrics.i3d_check import variables
from tests.unit.metrics.i3d_files import random_i3d


CASES = [
    ((5, 6, 7), (3, 3, 3), (1, 1, 1)),
    ((5, 6, 7), (3, 3, 3), (2, 2, 2)),
    ((4, 7, 8), (1, 3, 3), (1, 2, 2)),
    ((3, 4, 5), (2, 2, 2), (2, 2, 2)),
    ((2, 9, 10), (7, 7, 7), (2, 2, 2)),
    ((1, 3, 3), (1, 1, 1), (1, 1, 1)),
]
"""Sizes, kernels and strides, of odd and even padding; some windows are larger than the input."""


def test_the_variables_are_those_of_the_table() -> None:
    found = {name.replace(".", "/"): tuple(tensor.shape) for name, tensor in I3D().state_dict().items()}
    expected = {v.name: tuple(v.shape[i] for i in (4, 3, 0, 1, 2)) if len(v.shape) == 5 else v.shape for v in variables()}
    assert found == expected and len(found) == 230
    assert sum(int(np.prod(shape)) for shape in found.values()) == 12_704_544


def windows(sizes: Triple, kernel: Triple, stride: Triple) -> tuple[list[int], list[tuple[tuple[int, ...], list[Triple]]]]:
    """TensorFlow's SAME padding written out: the output's size, and for each of its elements the places of the window's taps."""
    outs = [int(np.ceil(size / step)) for size, step in zip(sizes, stride, strict=True)]
    befores = [max((out - 1) * s + k - size, 0) // 2 for out, s, k, size in zip(outs, stride, kernel, sizes, strict=True)]
    found = []
    for place in product(*map(range, outs)):
        starts = [p * s - before for p, s, before in zip(place, stride, befores, strict=True)]
        found.append((place, [tuple(np.add(starts, tap)) for tap in product(*map(range, kernel))]))
    return outs, found


@pytest.mark.parametrize(("sizes", "kernel", "stride"), CASES)
def test_convolution_pads_as_tensorflow(sizes: Triple, kernel: Triple, stride: Triple) -> None:
    """Reference: the sum over the taps of every window that lie in the input."""
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, *sizes)), rng.standard_normal((3, 2, *kernel)), rng.standard_normal(3)
    outs, places = windows(sizes, kernel, stride)
    expected = np.zeros((3, *outs))
    for place, taps in places:
        for tap, spot in zip(product(*map(range, kernel)), taps, strict=True):
            if all(0 <= at < size for at, size in zip(spot, sizes, strict=True)):
                expected[(slice(None), *place)] += w[(slice(None), slice(None), *tap)] @ x[(slice(None), *spot)]
    network = Convolution(2, 3, kernel, stride, bias=True).double()
    network.load_state_dict({"w": torch.from_numpy(w), "b": torch.from_numpy(b)})
    np.testing.assert_allclose(network(torch.from_numpy(x[None]))[0].numpy(), expected + b[:, None, None, None], atol=1e-12)


@pytest.mark.parametrize(("sizes", "kernel", "stride"), CASES)
def test_pooling_pads_as_tensorflow(sizes: Triple, kernel: Triple, stride: Triple) -> None:
    """Reference: the maximum over the taps of every window that lie in the input; all values are negative, so a zero would win."""
    x = -np.random.default_rng(0).random(sizes) - 1
    outs, places = windows(sizes, kernel, stride)
    expected = np.zeros(outs)
    for place, taps in places:
        expected[place] = max(x[spot] for spot in taps if all(0 <= at < size for at, size in zip(spot, sizes, strict=True)))
    np.testing.assert_array_equal(MaxPool(kernel, stride)(torch.from_numpy(x)[None, None])[0, 0].numpy(), expected)


def padded(x: Tensor, kernel: Triple, stride: Triple, value: float) -> Tensor:
    """For sizes that the strides divide, as here: of kernel - stride the smaller half goes before."""
    assert all(size % s == 0 for size, s in zip(x.shape[2:], stride, strict=True))
    sides = [((k - s) // 2, k - s - (k - s) // 2) for k, s in zip(kernel, stride, strict=True)]
    return F.pad(x, [side for pair in reversed(sides) for side in pair], value=value)


def published(v: dict[str, Tensor], x: Tensor) -> Tensor:
    """Figure 3 of the paper, line by line, for 16 frames."""

    def conv(x: Tensor, name: str, step: int = 1) -> Tensor:
        w, (mean, variance, beta) = (
            v[f"{name}/conv_3d/w"],
            (v[f"{name}/batch_norm/{part}"].view(-1, 1, 1, 1) for part in ("moving_mean", "moving_variance", "beta")),
        )
        y = F.conv3d(padded(x, tuple(w.shape[2:]), (step,) * 3, 0.0), w, stride=step)
        return ((y - mean) / (variance + 0.001).sqrt() + beta).clamp_min(0)

    def pool(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
        return F.max_pool3d(padded(x, kernel, stride, -1e9), kernel, stride)

    def mixed(x: Tensor, name: str) -> Tensor:
        last = "Conv3d_0a_3x3" if name == "Mixed_5b" else "Conv3d_0b_3x3"
        return torch.cat(
            [
                conv(x, f"{name}/Branch_0/Conv3d_0a_1x1"),
                conv(conv(x, f"{name}/Branch_1/Conv3d_0a_1x1"), f"{name}/Branch_1/Conv3d_0b_3x3"),
                conv(conv(x, f"{name}/Branch_2/Conv3d_0a_1x1"), f"{name}/Branch_2/{last}"),
                conv(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}/Branch_3/Conv3d_0b_1x1"),
            ],
            dim=1,
        )

    x = pool(conv(x, "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = pool(conv(conv(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    assert x.shape[1:] == (192, 8, 28, 28)
    x = pool(mixed(mixed(x, "Mixed_3b"), "Mixed_3c"), (3, 3, 3), (2, 2, 2))
    for block in "bcdef":
        x = mixed(x, f"Mixed_4{block}")
    x = pool(x, (2, 2, 2), (2, 2, 2))
    x = mixed(mixed(x, "Mixed_5b"), "Mixed_5c")
    assert x.shape[1:] == (1024, 2, 7, 7)
    features = x.mean((2, 3, 4))  # of 2 frames of 7 x 7 the pooling leaves one
    return features @ v["Logits/Conv3d_0c_1x1/conv_3d/w"][:, :, 0, 0, 0].T + v["Logits/Conv3d_0c_1x1/conv_3d/b"]


def test_the_network_is_that_of_the_paper() -> None:
    """Also the least clip passes, and gives other logits."""
    found, x = random_i3d(0), torch.rand((1, 3, 16, 224, 224), generator=torch.Generator().manual_seed(0)) * 2 - 1
    network = load_i3d(found)
    logits = network(x)
    assert logits.shape == (1, 400) and logits.std() > 0.1
    torch.testing.assert_close(logits, published(found, x), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(network(x[:, :, :9]), logits, atol=1e-2)


def test_a_longer_clip_is_a_mean_over_time() -> None:
    """A network whose only response is the bias of the logits, over more frames than one pooling takes; and what is refused."""
    network = I3D()
    network.load_state_dict({"Logits.Conv3d_0c_1x1.conv_3d.b": torch.arange(400.0)}, strict=False)
    assert (network(torch.zeros(2, 3, 17, 224, 224)) == torch.arange(400.0)).all()
    for shape in ((1, 3, 8, 224, 224), (1, 1, 9, 224, 224), (1, 3, 9, 224, 225), (3, 9, 224, 224)):
        with pytest.raises(ValueError, match="at least 9 frames"):
            network(torch.zeros(shape))


def test_weights_that_are_not_those_of_i3d() -> None:
    found = random_i3d(0)
    name = "Mixed_5c/Branch_3/Conv3d_0b_1x1/batch_norm/beta"
    cases = [
        ({key: tensor for key, tensor in found.items() if key != name}, f"{name} of I3D is missing, expected [128]"),
        (found | {name: torch.zeros(1, 128)}, f"{name} of I3D is [1, 128], expected [128]"),
        (found | {"gamma": torch.zeros(2)}, "gamma of I3D is [2], expected none of this name"),
    ]
    for given, message in cases:
        with pytest.raises(InputError) as error:
            load_i3d(given)
        assert message in str(error.value) and "\n" not in str(error.value)


def resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """[h, w] between pixel centres, in float64; beyond the outermost centres their values go on."""
    for axis, size in ((0, height), (1, width)):
        old = frame.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
        frame = frame.take(low, axis) * (1 - share) + frame.take(np.minimum(low + 1, old - 1), axis) * share
    return frame


@pytest.mark.parametrize(
    ("size", "to", "corner"),
    [
        ((16, 16), (224, 224), (0, 0)),
        ((224, 224), (224, 224), (0, 0)),
        ((300, 300), (224, 224), (0, 0)),
        ((20, 31), (224, 347), (0, 61)),
        ((31, 20), (347, 224), (61, 0)),
        ((250, 333), (224, 298), (0, 37)),
        ((500, 240), (466, 224), (121, 0)),
    ],
)
def test_frames_as_the_network_takes_them(size: tuple[int, int], to: tuple[int, int], corner: tuple[int, int]) -> None:
    """Reference: numpy in float64, with sizes and corners of the crop worked out by hand."""
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 2, *size), dtype=np.uint8)
    found = prepare(torch.from_numpy(clips))
    assert found.shape == (2, 3, 2, 224, 224) and found.dtype == torch.float32
    (top, left), expected = corner, np.empty(found.shape)
    for place in np.ndindex(2, 3, 2):
        expected[place] = resized(clips[place].astype(float), *to)[top : top + 224, left : left + 224] / 255 * 2 - 1
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)


def test_other_clips_are_refused() -> None:
    for clips in (torch.zeros(1, 3, 2, 8, 8), torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 2, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="expected clips uint8"):
            prepare(clips)
