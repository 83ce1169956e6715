"""Losses as pure functions, each with its equation.

Logits and scores may have any shape; the first dimension counts samples. Functions return one value
per sample [n], so that the caller decides how to average over the workers.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def per_sample(x: Tensor) -> Tensor:
    """[n, ...] -> mean of each sample [n]."""
    return x.flatten(1).mean(dim=1) if x.ndim > 1 else x


# Non-saturating logistic loss: Goodfellow et al. 2014, Sec. 3; used by StyleGAN2.
def generator_logistic(fake_logits: Tensor) -> Tensor:
    """-log sigmoid(D(fake)) per sample [n]."""
    return per_sample(F.softplus(-fake_logits))


def discriminator_logistic(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log sigmoid(D(real)) - log(1 - sigmoid(D(fake))) per sample [n]."""
    return per_sample(F.softplus(-real_logits)) + per_sample(F.softplus(fake_logits))


# R1: Mescheder et al. 2018, Eq. 9: gamma / 2 * E[ |grad D(x)|^2 ] on real samples.
def r1_penalty(logits: Tensor, frames: Tensor, gamma: float) -> Tensor:
    """Penalty per sample [n]; `frames` must require grad and `logits` depend on it."""
    (grad,) = torch.autograd.grad(logits.sum(), frames, create_graph=True)
    return grad.square().flatten(1).sum(dim=1) * (gamma / 2)


# Path length: StyleGAN2, Eq. 4: E[ (|J_w^T y|_2 - a)^2 ] with y ~ N(0, I) / sqrt(h w).
def path_lengths(frames: Tensor, ws: Tensor, y: Tensor) -> Tensor:
    """|J_w^T y| per sample [n], root mean over the layers of ws [n, num_ws, w_dim]; y like `frames`, N(0, 1)."""
    scale = 1 / math.sqrt(frames.shape[-1] * frames.shape[-2])
    (grad,) = torch.autograd.grad((frames * y * scale).sum(), ws, create_graph=True)
    return grad.square().sum(dim=2).mean(dim=1).sqrt()


# Relativistic average LSGAN: Jolicoeur-Martineau 2018, Eq. 8-9 with squared errors; the released code of the paper.
def ralsgan(scores: Tensor, other_mean: Tensor, target: float) -> Tensor:
    """(D(x) - E[D(other)] - target)^2 per sample [n]. other_mean: scalar mean over the whole batch."""
    return per_sample((scores - other_mean - target).square())


# Gradient penalty of the released code: E[ (|grad_x D(x)|_2 - 1)^2 ] on interpolates, the norm over channels.
def gradient_penalty(discriminate: Callable[[Tensor], Sequence[Tensor]], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Mean over the scales of the penalty, per sample [n]. real, fake [n, c, t, h, w]; mix [n] in [0, 1]."""
    share = mix.reshape(-1, *[1] * (real.ndim - 1))
    x = (share * real + (1 - share) * fake).requires_grad_(True)
    total = torch.zeros(real.shape[0], device=real.device)
    scales = discriminate(x)
    for scores in scales:
        (grad,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
        norm = (grad.square().sum(dim=1) + 1e-12).sqrt()
        total = total + per_sample((norm - 1).square())
    return total / len(scales)


# Eq. 12 and 13, on logits: E[log D(v)] + E[log(1 - D(G(z)))], which D maximises.
def discriminator_log(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Negative of eq. 12 (D_V) or 13 (D_R) per sample [n]."""
    return discriminator_logistic(real_scores, fake_scores)


# Eq. 14: the generator minimises E[log(1 - D(G(z)))]; not saturating: it maximises E[log D(G(z))].
def generator_log(fake_scores: Tensor, *, saturating: bool) -> Tensor:
    """Generator's part of eq. 14 per sample [n]."""
    return per_sample(-F.softplus(fake_scores) if saturating else F.softplus(-fake_scores))
