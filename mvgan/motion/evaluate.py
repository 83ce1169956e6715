"""How well codes separate the two frames: edits of equal strength over fresh latents."""

from typing import Any

import torch
from torch import Tensor

from mvgan.motion.codes import edit_ratios
from mvgan.motion.factorize import DIRECTIONS
from mvgan.motion.jacobian import Synthesize


TARGET_MSE = 3e-4
"""Each code is scaled until the frame that it edits changes by this mean squared difference on [-1, 1]."""

EDIT_LATENTS = 32
"""Fresh latents over which an edit is measured."""


def method_ratios(synthesize: Synthesize, w: Tensor, codes: Tensor, direction: str) -> dict[str, Any]:
    """Edit ratios of the codes of one direction over the latents `w` [n, w_dim], with their median and worst, and n."""
    ratios = edit_ratios(synthesize, w, codes, DIRECTIONS[direction], TARGET_MSE)
    return {"ratios": ratios.tolist(), "median": float(torch.median(ratios)), "worst": float(ratios.min()), "latents": len(w)}
