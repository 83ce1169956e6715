"""The averaged generator."""

import torch
from torch import nn


def ema_beta(images: int, batch: int, half_life_kimg: float, rampup: float) -> float:
    """Share of the old average kept after a step: a half-life in images, at most `rampup` of those seen so far (infinity: no ramp).

    Source: StyleGAN2-ADA, training loop (ema_kimg, ema_rampup).
    """
    half_life = min(half_life_kimg * 1000, rampup * max(images, 1e-8))
    return float(0.5 ** (batch / max(half_life, 1e-8)))


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, beta: float) -> None:
    """Move the parameters of `average` towards those of `model`; buffers (w_avg, fixed noise) are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - beta)
    for mine, other in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(other)
