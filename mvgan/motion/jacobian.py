"""Gram matrices of the Jacobian of a pair generator (eq. 3-5), by forward mode.

A frame has thousands of outputs but w only some hundred inputs, so J is taken column by column: one tangent a column, many
tangents at once. J^T J needs every pair of columns, so as many as fit within `max_bytes` are held and the others are
computed again: exact in either case, and the memory is bounded at any resolution.
"""

from collections.abc import Callable

import torch
from torch import Tensor


Synthesize = Callable[[Tensor], Tensor]
"""w [n, w_dim] -> frame pairs [n, 2, 3, h, w], a deterministic function (fixed noise)."""

BAND = 1 << 13
"""Outputs that are widened to float64 at once."""


def pair_grams(synthesize: Synthesize, w: Tensor, *, chunk: int, grey: bool = False, max_bytes: int = 2 << 30) -> Tensor:
    """J^T J of each frame at `w` [w_dim], over the number of outputs of a frame: float64 [2, w_dim, w_dim] on w's device.

    So n^T gram n is the mean squared change of the frame for a small step n (eq. 5), on the scale of the generator.
    `chunk` tangents go through the generator at once; of J at most `max_bytes` are held (and at least one chunk).
    With `grey` the outputs are the means of the three channels, as in the authors' code. J has the dtype of w.
    """
    columns = _columns(synthesize, w, grey)
    w_dim, outputs = len(w), columns(0, 1).shape[-1]
    held = max(chunk, max_bytes // (2 * outputs * w.element_size()) // chunk * chunk)
    grams = torch.empty(2, w_dim, w_dim, dtype=torch.float64, device=w.device)
    for start in range(0, w_dim, held):
        stop = min(start + held, w_dim)
        block = w.new_empty(2, stop - start, outputs)
        for i in range(start, stop, chunk):
            block[:, i - start : i - start + chunk] = columns(i, min(i + chunk, stop))
        grams[:, start:stop, start:stop] = _products(block, block)
        for i in range(stop, w_dim, chunk):
            j = min(i + chunk, w_dim)
            grams[:, start:stop, i:j] = _products(block, columns(i, j))
            grams[:, i:j, start:stop] = grams[:, start:stop, i:j].mT
    return (grams + grams.mT) / (2 * outputs)


def _columns(synthesize: Synthesize, w: Tensor, grey: bool) -> Callable[[int, int], Tensor]:
    """A function that gives columns start to stop of J as [2, stop - start, outputs of a frame] (eq. 3)."""
    w = w.detach()
    unit = torch.eye(len(w), dtype=w.dtype, device=w.device)

    def frames(point: Tensor) -> Tensor:
        pair = synthesize(point[None])
        if pair.ndim != 5 or pair.shape[:3] != (1, 2, 3) or pair.dtype != w.dtype:
            raise ValueError(f"expected frames [1, 2, 3, h, w] of {w.dtype}, got {list(pair.shape)} of {pair.dtype}")
        return (pair[0].mean(1) if grey else pair[0]).flatten(1)

    def tangent(direction: Tensor) -> Tensor:
        # A point shared by all tangents is not batched by vmap: the frames themselves are computed once a chunk.
        column: Tensor = torch.func.jvp(frames, (w,), (direction,))[1]
        return column

    def columns(start: int, stop: int) -> Tensor:
        with torch.no_grad():  # the parameters of the generator need no graph
            jac: Tensor = torch.func.vmap(tangent, out_dims=1)(unit[start:stop])
        return jac

    return columns


def _products(a: Tensor, b: Tensor) -> Tensor:
    """a b^T of columns [2, m, outputs] and [2, n, outputs], summed in float64: [2, m, n]."""
    total = torch.zeros(2, a.shape[1], b.shape[1], dtype=torch.float64, device=a.device)
    for i in range(0, a.shape[-1], BAND):
        total += a[..., i : i + BAND].double() @ b[..., i : i + BAND].double().mT
    return total
