"""Grams by forward mode against the Jacobian that reverse mode gives (torch.func.jacrev), on a small convolution net."""

import pytest
import torch
from torch import Tensor, nn

from mvgan.motion.jacobian import pair_grams


torch.set_num_threads(1)
W_DIM = 24


class SmallPairs(nn.Module):
    """w -> pairs of 8 x 8 frames, smooth and not linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(W_DIM, 8 * 4 * 4)
        self.conv = nn.Conv2d(8, 12, 3, padding=1)
        self.last = nn.Conv2d(12, 6, 3, padding=1)

    def forward(self, w: Tensor) -> Tensor:
        x = nn.functional.interpolate(nn.functional.softplus(self.first(w)).view(-1, 8, 4, 4), scale_factor=2, mode="nearest")
        return self.last(torch.tanh(self.conv(x))).unflatten(1, (2, 3))


def net_and_w(dtype: torch.dtype) -> tuple[SmallPairs, Tensor]:
    torch.manual_seed(3)
    return SmallPairs().to(dtype), torch.randn(W_DIM, dtype=torch.float64).to(dtype)


def by_reverse_mode(grey: bool) -> Tensor:
    """J^T J over the outputs of a frame, from jacrev in float64 on the same (float32) weights."""
    net, w = net_and_w(torch.float32)
    net, w = net.double(), w.double()
    jac = torch.func.jacrev(lambda x: net(x[None])[0])(w)
    jac = jac.mean(1) if grey else jac
    jac = jac.reshape(2, -1, W_DIM)
    return (torch.einsum("foi,foj->fij", jac, jac) / jac.shape[1]).detach()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("grey", [False, True])
def test_gram_equals_reverse_mode(dtype: torch.dtype, bound: float, grey: bool) -> None:
    net, w = net_and_w(torch.float32)
    grams = pair_grams(net.to(dtype), w.to(dtype), chunk=8, grey=grey)
    expected = by_reverse_mode(grey)
    assert grams.dtype == torch.float64 and grams.shape == (2, W_DIM, W_DIM)
    assert float((grams - expected).norm() / expected.norm()) <= bound


def test_chunk_size_and_memory_bound_do_not_matter() -> None:
    """All columns held, chunks that do not divide w_dim, and so little memory that columns are computed again."""
    net, w = net_and_w(torch.float64)
    whole = pair_grams(net, w, chunk=W_DIM)
    column = 2 * 3 * 8 * 8 * 8
    for chunk, max_bytes in ((1, 1 << 30), (5, 1 << 30), (100, 1 << 30), (1, 1), (5, 1), (5, 11 * column), (7, 14 * column)):
        again = pair_grams(net, w, chunk=chunk, max_bytes=max_bytes)
        assert float((again - whole).norm() / whole.norm()) <= 1e-13, (chunk, max_bytes)
        assert torch.equal(again, again.mT)


def test_gram_is_the_mean_squared_change_of_a_small_step() -> None:
    """Eq. 5, by finite differences in float64."""
    net, w = net_and_w(torch.float64)
    step = 1e-6 * torch.randn(W_DIM, dtype=torch.float64)
    with torch.no_grad():
        change = (net((w + step)[None]) - net(w[None]))[0].square().mean((1, 2, 3))
    grams = pair_grams(net, w, chunk=16)
    assert torch.allclose(torch.einsum("i,fij,j->f", step, grams, step), change, rtol=1e-4)


def test_a_generator_of_another_dtype_or_shape_is_refused() -> None:
    net, w = net_and_w(torch.float32)
    with pytest.raises(ValueError, match="expected frames"):
        pair_grams(lambda x: net(x).bfloat16(), w, chunk=8)
    with pytest.raises(ValueError, match="expected frames"):
        pair_grams(lambda x: net(x).flatten(1, 2), w, chunk=8)
