"""The low-pass filter and resampling against loops over single samples, in float64: as CPUs and as GPUs compute them."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mvgan.nets import fir


BINOMIAL = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def correlate(x: np.ndarray, kernel: np.ndarray, padding: int) -> np.ndarray:
    """Each output sample as the sum of products of its window: x [h, w], kernel [k, k]."""
    x = np.pad(x, padding)
    k = len(kernel)
    out = np.zeros((x.shape[0] - k + 1, x.shape[1] - k + 1))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = (x[i : i + k, j : j + k] * kernel).sum()
    return out


def insert_zeros(x: np.ndarray) -> np.ndarray:
    """[h, w] -> [2 h, 2 w] with a zero after each sample."""
    out = np.zeros((2 * x.shape[0], 2 * x.shape[1]))
    out[::2, ::2] = x
    return out


def per_map(x: Tensor, function: object) -> Tensor:
    """`function` on each map [h, w] of x [n, c, h, w]."""
    maps = [[function(channel.numpy()) for channel in sample] for sample in x]  # type: ignore[operator]
    return torch.from_numpy(np.array(maps))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=["convolutions", "products"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How it is computed: as on a CPU, or as on a GPU."""
    if request.param == "products":
        monkeypatch.setattr(fir, "_by_products", lambda x: True)
    return str(request.param)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("padding", "gain"), [(1, 1.0), (2, 1.0), (1, 4.0), (0, 0.5)])
def test_filter(padding: int, gain: float) -> None:
    """Reference: padding and correlation by a loop."""
    x = normal(2, 3, 6, 8)
    expected = per_map(x, lambda m: gain * correlate(m, BINOMIAL, padding))
    torch.testing.assert_close(fir.low_pass(x, padding, gain), expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("way")
def test_upsample() -> None:
    """Reference: zero insertion, padding by 2 before and 1 after, correlation (StyleGAN2's upsampling of images)."""
    x = normal(2, 3, 4, 5)

    def brute(m: np.ndarray) -> np.ndarray:
        return correlate(np.pad(insert_zeros(m), (2, 1)), 4 * BINOMIAL, 0)

    torch.testing.assert_close(fir.upsample(x), per_map(x, brute), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("way")
def test_downsample() -> None:
    """Reference: correlation with a padding of 1, every second sample kept."""
    x = normal(2, 3, 6, 8)
    torch.testing.assert_close(fir.downsample(x), per_map(x, lambda m: correlate(m, BINOMIAL, 1)[::2, ::2]), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("way")
def test_resampling_keeps_a_constant() -> None:
    """A filter that sums to 1 leaves a constant as it is, away from the border, up and down."""
    x = torch.full((1, 1, 8, 8), 3.0, dtype=torch.float64)
    for y in (fir.upsample(x), fir.downsample(x)):
        torch.testing.assert_close(y[..., 2:-2, 2:-2], torch.full_like(y[..., 2:-2, 2:-2], 3.0))


RESAMPLINGS = [lambda x: fir.low_pass(x, 2), lambda x: fir.low_pass(x, 1, 4.0), fir.upsample, fir.downsample]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("resample", RESAMPLINGS)
def test_derivatives(resample: Callable[[Tensor], Tensor]) -> None:
    """Reference: finite differences, for the gradient and for its own; and forward mode under vmap, as Grams are taken."""
    x = normal(2, 2, 4, 6).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: resample(x).square(), x)
    assert torch.autograd.gradgradcheck(lambda x: resample(x).square(), x)
    tangents = normal(3, 2, 2, 4, 6, seed=1)
    found = torch.func.vmap(lambda t: torch.func.jvp(resample, (x.detach(),), (t,))[1])(tangents)
    torch.testing.assert_close(found, torch.stack([resample(t) for t in tangents]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("resample", RESAMPLINGS)
def test_products_keep_channels_last_and_bf16(resample: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: float64. The taps are exact in bf16, so that one rounding an axis is all that is lost."""
    monkeypatch.setattr(fir, "_by_products", lambda x: True)
    x = normal(2, 8, 16, 16).bfloat16().contiguous(memory_format=torch.channels_last)
    y = resample(x)
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.double(), resample(x.double()), rtol=2**-7, atol=2**-7)


@pytest.fixture(params=["products", "depthwise"])
def forget(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forgets the matrices of either way, which tests are to take."""
    monkeypatch.setattr(fir, "_by_products", lambda x: request.param == "products")
    return fir._band.cache_clear if request.param == "products" else fir._square.cache_clear


def test_matrices_made_within_torch_func_serve_elsewhere(forget: Callable[[], None]) -> None:
    """Tensors made there are wrapped, and dead when it ends: made under one level and under two, then used outside and inside."""
    x, t = normal(1, 2, 6, 6), normal(1, 2, 6, 6, seed=1)

    def jvp(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.func.jvp(function, (x,), (t,))[1]

    forget()
    expected = fir.upsample(t)
    for made in (jvp(fir.upsample), jvp(jvp(lambda x: fir.upsample(x).square()))):
        forget()
        made(x)
        torch.testing.assert_close(jvp(fir.upsample)(x), expected)
        torch.testing.assert_close(torch.func.vmap(jvp(fir.upsample))(x[None])[0], expected)
        copy.deepcopy(fir._square(4.0, x.dtype, x.device))
        copy.deepcopy(fir._band(6, 12, 2, 2, 1, 1.0, x.dtype, x.device))


def test_matrices_made_while_sampling_serve_training(forget: Callable[[], None]) -> None:
    """Tensors made in inference mode cannot be part of a graph."""
    forget()
    x = normal(1, 1, 10, 10)
    with torch.inference_mode():
        fir.upsample(x)
    x.requires_grad_(True)
    fir.upsample(x).sum().backward()
    assert x.grad is not None
