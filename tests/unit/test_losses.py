"""Losses against numpy formulas, and penalties against finite differences in float64."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from mvgan import losses


RNG = np.random.default_rng(0)
REAL, FAKE = 3 * RNG.standard_normal((4, 1, 2, 3, 3)), 3 * RNG.standard_normal((4, 1, 2, 3, 3))
REAL_T, FAKE_T = torch.from_numpy(REAL), torch.from_numpy(FAKE)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def means(x: np.ndarray) -> np.ndarray:
    """Mean of each sample."""
    return x.reshape(len(x), -1).mean(1)


def close(found: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9)


def test_logistic() -> None:
    """Reference: logarithms of sigmoids, written out; logits [n] and maps of scores alike."""
    close(losses.generator_logistic(FAKE_T), means(-np.log(sigmoid(FAKE))))
    close(losses.discriminator_logistic(REAL_T, FAKE_T), means(-np.log(sigmoid(REAL))) + means(-np.log(1 - sigmoid(FAKE))))
    close(losses.generator_logistic(FAKE_T[:, 0, 0, 0, 0]), -np.log(sigmoid(FAKE[:, 0, 0, 0, 0])))


def test_log_losses() -> None:
    """Reference: eq. 12-14 written out: D maximises log D(v) + log(1 - D(G(z))), G minimises its second term."""
    eq_12 = means(np.log(sigmoid(REAL))) + means(np.log(1 - sigmoid(FAKE)))
    close(losses.discriminator_log(REAL_T, FAKE_T), -eq_12)
    close(losses.generator_log(FAKE_T, saturating=True), means(np.log(1 - sigmoid(FAKE))))
    close(losses.generator_log(FAKE_T, saturating=False), means(-np.log(sigmoid(FAKE))))


def test_log_losses_of_certain_logits_are_finite() -> None:
    """sigmoid(-1000) is 0 in floating point, its logarithm minus infinity: the loss works on logits, so it is 1000."""
    certain = torch.tensor([[-1000.0], [1000.0]])
    assert losses.discriminator_log(certain, certain).tolist() == [1000, 1000]
    assert losses.generator_log(certain, saturating=True).tolist() == [0, -1000]


def test_both_forms_of_the_generator_loss_pull_up() -> None:
    """Eq. 14 and its form that does not saturate both fall as D's score of a generated clip rises."""
    for saturating in (True, False):
        scores = torch.linspace(-3, 3, 7)[:, None]
        assert (losses.generator_log(scores, saturating=saturating).diff() < 0).all()


def test_ralsgan() -> None:
    """Reference: mean((x - mean(other) - target)^2) of the released code, with the mean over the whole batch."""
    for x, other, target in ((REAL, FAKE, 1), (FAKE, REAL, 0)):
        found = losses.ralsgan(torch.from_numpy(x), torch.tensor(other.mean()), target)
        close(found, means((x - other.mean() - target) ** 2))
        np.testing.assert_allclose(found.mean().item(), np.mean((x - other.mean() - target) ** 2))


def smooth_net(channels: int) -> Callable[[Tensor], Tensor]:
    """A smooth nonlinear function [n, channels, h, w] -> [n, 4, h, w] with a grid of interactions."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(channels, 4, 3, padding=1).double(), nn.Conv2d(4, 4, 3, padding=1).double()
    return lambda x: second(torch.tanh(first(x)))


def numeric_gradient(function: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences."""
    grad = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        grad[index] = (function(up) - function(down)) / (2 * step)
    return grad


def test_r1() -> None:
    """Reference: finite differences of each sample's logit."""
    net = smooth_net(3)
    frames = np.random.default_rng(1).standard_normal((2, 3, 4, 4))
    x = torch.from_numpy(frames).requires_grad_(True)
    found = losses.r1_penalty(net(x).square().sum(dim=(1, 2, 3)), x, gamma=3.0)
    for n in range(2):
        grad = numeric_gradient(lambda v: float(net(torch.from_numpy(v[None])).detach().square().sum()), frames[n])
        np.testing.assert_allclose(found[n].item(), 1.5 * (grad**2).sum(), rtol=1e-6)


def test_path_lengths() -> None:
    """Reference: finite differences of sum(frames * y) / sqrt(h w) by each layer's w; root of the mean over layers of the square."""
    net = smooth_net(5)
    rng = np.random.default_rng(2)
    ws, y = rng.standard_normal((2, 5, 3)), rng.standard_normal((2, 2, 2, 4, 6))

    def synthesize(ws: Tensor) -> Tensor:
        """[n, 5 layers, 3] -> frames [n, 2, 2, 4, 6]."""
        x = ws[:, :, :, None].expand(-1, -1, -1, 4) * torch.arange(1, 5, dtype=torch.float64)
        return (net(x)[:, :, :, :3].repeat(1, 1, 2, 2)[:, :, :4] ** 2).reshape(len(ws), 2, 2, 4, 6)

    x = torch.from_numpy(ws).requires_grad_(True)
    found = losses.path_lengths(synthesize(x), x, torch.from_numpy(y))
    for n in range(2):
        weight = torch.from_numpy(y[n : n + 1]) / np.sqrt(4 * 6)
        grad = numeric_gradient(lambda v, weight=weight: float((synthesize(torch.from_numpy(v[None])) * weight).sum().detach()), ws[n])
        np.testing.assert_allclose(found[n].item(), np.sqrt((grad**2).sum(1).mean()), rtol=1e-6)


def test_gradient_penalty() -> None:
    """Reference: finite differences at the interpolates; norm over the channels, mean over positions, mean over the scales."""
    torch.manual_seed(0)
    convs = [nn.Conv3d(2, 1, 3, padding=1).double(), nn.Conv3d(2, 1, 2).double()]

    def discriminate(x: Tensor) -> list[Tensor]:
        return [torch.tanh(conv(x)) ** 2 + conv(x) for conv in convs]

    real, fake = (torch.randn(2, 2, 3, 3, 2, dtype=torch.float64) for _ in range(2))
    mix = torch.tensor([0.25, 0.7], dtype=torch.float64)
    found = losses.gradient_penalty(discriminate, real, fake, mix)
    for n in range(2):
        x = (mix[n] * real[n] + (1 - mix[n]) * fake[n]).numpy()
        expected = []
        for scale in range(2):
            grad = numeric_gradient(lambda v, s=scale: float(discriminate(torch.from_numpy(v[None]))[s].sum().detach()), x)
            expected.append(((np.sqrt((grad**2).sum(0)) - 1) ** 2).mean())
        np.testing.assert_allclose(found[n].item(), np.mean(expected), rtol=1e-6)


def test_penalties_train_the_parameters() -> None:
    """Reference: finite differences of the penalty by a weight: gradients flow through the inner gradient."""
    torch.manual_seed(0)
    conv = nn.Conv3d(2, 1, 3, padding=1).double()
    real, fake = (torch.randn(2, 2, 3, 3, 2, dtype=torch.float64) for _ in range(2))
    mix = torch.tensor([0.25, 0.7], dtype=torch.float64)

    def penalty(weight: np.ndarray) -> Tensor:
        conv.weight.data = torch.from_numpy(weight)
        return losses.gradient_penalty(lambda x: [torch.tanh(conv(x))], real, fake, mix).sum()

    weight = conv.weight.detach().numpy().copy()
    penalty(weight).backward()
    numeric = numeric_gradient(lambda v: penalty(v).item(), weight)
    np.testing.assert_allclose(conv.weight.grad.numpy(), numeric, rtol=1e-5, atol=1e-7)


def test_gradient_penalty_of_a_flat_discriminator_is_differentiable() -> None:
    """At a gradient of zero the norm has no derivative; the penalty is 1 and its gradient finite all the same."""
    weight = torch.zeros([], dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 2, 3, 3, 2, dtype=torch.float64)
    penalty = losses.gradient_penalty(lambda v: [v.sum(dim=1, keepdim=True) * weight], x, -x, torch.tensor([0.5], dtype=torch.float64))
    penalty.sum().backward()
    np.testing.assert_allclose(penalty.item(), 1, rtol=1e-5)
    assert weight.grad is not None and weight.grad.isfinite()
