"""Vectors of W and of W+ against numpy, and what the synthesis network makes of them."""

import numpy as np
import pytest
import torch

from mvgan.config import Network
from mvgan.nets.generator import Generator
from mvgan.nets.space import blocks, by_layer, in_layers, in_space_of, layers_of


W_DIM, LAYERS = 5, 3


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(), (4,), (4, 2)])
def test_w_in_all_layers(shape: tuple[int, ...]) -> None:
    """Reference: numpy's tile. A vector of W+ stays as it is, and with codes of W so does w."""
    w, codes = normal(*shape, W_DIM), normal(2, 7, LAYERS * W_DIM)
    lifted = in_space_of(codes, w)
    np.testing.assert_array_equal(lifted.numpy(), np.tile(w.numpy(), LAYERS))
    assert torch.equal(in_space_of(codes, lifted), lifted) and torch.equal(in_space_of(codes[..., :W_DIM], w), w)
    np.testing.assert_array_equal(by_layer(lifted, W_DIM).numpy(), lifted.numpy().reshape(*shape, LAYERS, W_DIM))
    assert by_layer(w, W_DIM).shape == (*shape, 1, W_DIM)


def test_rows_in_their_layers() -> None:
    """Reference: slices, by hand."""
    rows, layers = normal(4, W_DIM), torch.tensor([2, 0, 2, 1])
    found = in_layers(rows, layers, LAYERS)
    for row, layer, vector in zip(rows, layers.tolist(), found, strict=True):
        expected = torch.zeros(LAYERS * W_DIM, dtype=torch.float64)
        expected[layer * W_DIM : (layer + 1) * W_DIM] = row
        assert torch.equal(vector, expected)
    assert torch.equal(layers_of(found, W_DIM), layers)
    assert torch.equal(in_layers(rows, torch.zeros(4, dtype=torch.long), 1), rows)


def test_blocks() -> None:
    gram = normal(LAYERS, W_DIM, W_DIM)
    assert torch.equal(blocks(gram), gram) and torch.equal(blocks(gram[0]), gram[:1])


def test_the_synthesis_network_takes_each_kind() -> None:
    """Reference: its form by layer. Of one w per layer, flat or in a list, each drives its own layer."""
    torch.manual_seed(0)
    synthesis = Generator(Network(z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8, precision="fp32"), 16).synthesis
    ws = torch.randn(3, synthesis.num_ws, 8)
    frames = synthesis(ws)
    assert torch.equal(synthesis(ws.flatten(1)), frames) and torch.equal(synthesis.from_layers(list(ws.unbind(1))), frames)
    assert torch.equal(synthesis(ws[:, 0]), synthesis(ws[:, :1].expand_as(ws)))
    assert not torch.equal(synthesis(ws[:, 0]), frames)
