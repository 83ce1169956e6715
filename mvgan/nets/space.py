"""W and W+: latents with one w for all layers of the synthesis network, and latents with a w of each layer's own.

Both are flat vectors, [..., w_dim] and [..., num_ws * w_dim], so that codes, edits and walks are the same in either. What has to tell
one from the other does so here, by their sizes. A code of W+ acts in one layer alone: it is zero but in that layer's w_dim numbers.
A matrix of W+ that does not mix layers is kept as its blocks [num_ws, w_dim, w_dim]; one of W is its own single block.
"""

import torch
from torch import Tensor


def by_layer(x: Tensor, w_dim: int) -> Tensor:
    """[..., num_ws * w_dim] -> [..., num_ws, w_dim]; [..., w_dim] -> [..., 1, w_dim]."""
    return x.unflatten(-1, (-1, w_dim))


def in_space_of(codes: Tensor, w: Tensor) -> Tensor:
    """`w` [..., w_dim] as it is, or once for each layer [..., num_ws * w_dim] where `codes` [..., num_ws * w_dim] are of W+."""
    times, rest = divmod(codes.shape[-1], w.shape[-1])
    if rest or not times:
        raise ValueError(f"w of {w.shape[-1]} numbers has no place in a space of {codes.shape[-1]}")
    return w.unsqueeze(-2).expand(*w.shape[:-1], times, w.shape[-1]).flatten(-2)


def blocks(matrix: Tensor) -> Tensor:
    """The blocks [num_ws, w_dim, w_dim] of a matrix of W+; of one of W [w_dim, w_dim] itself alone, [1, w_dim, w_dim]."""
    return matrix.reshape(-1, *matrix.shape[-2:])


def in_layers(rows: Tensor, layers: Tensor, num_layers: int) -> Tensor:
    """Each of `rows` [m, w_dim] in its layer, `layers` [m] of them, and zero in all others: [m, num_layers * w_dim]."""
    found = rows.new_zeros(len(rows), num_layers, rows.shape[1])
    found[torch.arange(len(rows)), layers] = rows
    return found.flatten(1)


def layers_of(codes: Tensor, w_dim: int) -> Tensor:
    """The layer in which each of `codes` [num_codes, num_ws * w_dim] acts, from 0: [num_codes]."""
    return by_layer(codes, w_dim).abs().sum(2).argmax(1)
