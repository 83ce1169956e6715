"""The video discriminators: sizes, inputs of D_V and D_R, and one scale against a loop."""

import itertools

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch import nn

from mvgan.nets.video_discriminator import ImageDiscriminator, PatchDiscriminator, VideoDiscriminator, with_first_frame, with_reverse


def test_parameters() -> None:
    """Reference: the released code: 22,136,706 with 64 channels and 2 scales."""
    with torch.device("meta"):
        net = VideoDiscriminator(64, 2)
    assert sum(p.numel() for p in net.parameters()) == 22_136_706


def test_scores_of_a_paper_clip() -> None:
    """Reference: the released code gives 5x35x35 and 5x19x19 for 16 frames of 256 px."""
    with torch.device("meta"):
        scores = VideoDiscriminator(8, 2)(torch.zeros(1, 6, 16, 256, 256))
    assert [tuple(s.shape) for s in scores] == [(1, 1, 5, 35, 35), (1, 1, 5, 19, 19)]


@pytest.mark.parametrize(("frames", "kept"), [(16, 16), (17, 9), (3, 3)])
def test_time_is_kept_up_to_16_frames(frames: int, kept: int) -> None:
    """The second scale halves the size; time only in clips of more than 16 frames."""
    net = VideoDiscriminator(2, 2)
    seen: list[torch.Size] = []
    net.scales[1].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    net(torch.zeros(1, 6, frames, 16, 16))
    assert seen == [(1, 6, kept, 8, 8)]


def test_inputs() -> None:
    """Reference: single frames: D_V sees each frame beside the first, D_R beside its counterpart in the reversed clip."""
    clips = torch.randn(2, 5, 3, 4, 4)
    v, r = with_first_frame(clips), with_reverse(clips)
    assert v.shape == r.shape == (2, 6, 5, 4, 4)
    for n, t in itertools.product(range(2), range(5)):
        assert torch.equal(v[n, :, t], torch.cat([clips[n, 0], clips[n, t]]))
        assert torch.equal(r[n, :, t], torch.cat([clips[n, t], clips[n, 4 - t]]))


def conv3d(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """One sample by a loop: x [c, t, h, w], weight [c_out, c, 4, 4, 4], padding 2."""
    x = np.pad(x, ((0, 0), (2, 2), (2, 2), (2, 2)))
    sizes = [(size - 4) // stride + 1 for size in x.shape[1:]]
    out = np.zeros((len(weight), *sizes))
    for t, i, j in itertools.product(*map(range, sizes)):
        a, b, c = t * stride, i * stride, j * stride
        out[:, t, i, j] = np.tensordot(weight, x[:, a : a + 4, b : b + 4, c : c + 4], 4) + bias
    return out


def test_one_scale() -> None:
    """Reference: five convolutions by loops, strides 2 2 2 1 1, instance norm in all but the first and the last."""
    torch.manual_seed(0)
    net = PatchDiscriminator(nn.Conv3d, 6, 2).double()
    x = torch.randn(1, 6, 4, 6, 6, dtype=torch.float64)
    y = x[0].numpy()
    convs = [(conv.weight.detach().numpy(), conv.bias.detach().numpy()) for conv in (*net.convs, net.out)]
    for index, ((weight, bias), stride) in enumerate(zip(convs, (2, 2, 2, 1, 1), strict=True)):
        y = conv3d(y, weight, bias, stride)
        if 0 < index < 4:
            mean, variance = y.mean((1, 2, 3), keepdims=True), y.var((1, 2, 3), keepdims=True)
            y = (y - mean) / np.sqrt(variance + 1e-5)
        if index < 4:
            y = np.where(y > 0, y, 0.2 * y)
    np.testing.assert_allclose(net(x)[0].detach().numpy(), y, rtol=0, atol=1e-10)


def test_the_second_scale_sees_averages() -> None:
    """Reference: means over 3x3x3 neighbours, of those inside the clip only."""
    net = VideoDiscriminator(2, 2)
    seen: list[torch.Tensor] = []
    net.scales[1].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    x = torch.randn(1, 6, 4, 8, 8)
    net(x)
    for t, i, j in itertools.product(range(4), range(4), range(4)):
        window = x[0, :, max(0, t - 1) : t + 2, max(0, 2 * i - 1) : 2 * i + 2, max(0, 2 * j - 1) : 2 * j + 2]
        torch.testing.assert_close(seen[0][0, :, t, i, j], window.mean(dim=(1, 2, 3)))


def test_one_scale_of_the_image_discriminator() -> None:
    """Reference: scipy: five convolutions, strides 2 2 2 1 1, instance norm in all but the first and the last."""
    torch.manual_seed(0)
    net = PatchDiscriminator(nn.Conv2d, 3, 2).double()
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    y = x[0].numpy()
    for index, (conv, stride) in enumerate(zip((*net.convs, net.out), (2, 2, 2, 1, 1), strict=True)):
        weight, padded = conv.weight.detach().numpy(), np.pad(y, ((0, 0), (2, 2), (2, 2)))
        y = np.stack([sum(correlate2d(m, k, mode="valid") for m, k in zip(padded, kernel, strict=True)) for kernel in weight])
        y = y[:, ::stride, ::stride] + conv.bias.detach().numpy()[:, None, None]
        if 0 < index < 4:
            y = (y - y.mean((1, 2), keepdims=True)) / np.sqrt(y.var((1, 2), keepdims=True) + 1e-5)
        if index < 4:
            y = np.where(y > 0, y, 0.2 * y)
    np.testing.assert_allclose(net(x)[0].detach().numpy(), y, rtol=0, atol=1e-10)


def test_scales_of_the_image_discriminator() -> None:
    """The second scale sees frames of half the size: means over 3x3 neighbours within the frame."""
    net = ImageDiscriminator(2, 2)
    seen: list[torch.Tensor] = []
    net.scales[1].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    x = torch.randn(1, 3, 16, 16)
    net(x)
    assert seen[0].shape == (1, 3, 8, 8)
    torch.testing.assert_close(seen[0][0, 0, 0, 0], x[0, 0, :2, :2].mean())
    torch.testing.assert_close(seen[0][0, 1, 3, 4], x[0, 1, 5:8, 7:10].mean())
