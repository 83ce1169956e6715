"""The latent code generator: frame order of eq. 10-11 by a table written by hand, and the walk by numpy."""

from typing import Literal

import numpy as np
import pytest
import torch

from mvgan.nets.latent import LatentGenerator, shown_sides


# Paper, Sec. III-C, for 6 frames: frame t is side s of G_S(w_t), and w_t came from w_(t-1) by these codes.
LATTER_FIRST = [(0, "latter", None), (1, "former", "backward"), (2, "latter", "forward"),
                (3, "former", "backward"), (4, "latter", "forward"), (5, "former", "backward")]  # fmt: skip
FORMER_FIRST = [(0, "former", None), (1, "latter", "forward"), (2, "former", "backward"),
                (3, "latter", "forward"), (4, "former", "backward"), (5, "latter", "forward")]  # fmt: skip
TABLES = [("latter", LATTER_FIRST), ("former", FORMER_FIRST)]


@pytest.mark.parametrize(("first", "table"), TABLES)
def test_shown_sides(first: Literal["former", "latter"], table: list[tuple[int, str, str | None]]) -> None:
    """Reference: x_01, x_10, x_21, x_30, ... of the paper, and x_00, x_11, x_20, x_31, ..."""
    assert shown_sides(6, first) == [{"former": 0, "latter": 1}[side] for _, side, _ in table]


@pytest.mark.parametrize(("first", "table"), TABLES)
def test_each_step_moves_along_its_codes(first: Literal["former", "latter"], table: list[tuple[int, str, str | None]]) -> None:
    """Reference: the table. Backward and forward codes span different coordinates, so a step shows whose it is."""
    torch.manual_seed(0)
    net = LatentGenerator(w_dim=6, hidden=5, num_codes=3, residual=0.2)
    codes = torch.zeros(2, 3, 6)
    codes[0, :, :3] = torch.eye(3)  # backward
    codes[1, :, 3:] = torch.eye(3)  # forward
    ws = net(torch.randn(2, 6), torch.randn(2, 5, 6), codes, first)
    assert ws.shape == (2, 6, 6)
    for t, _, moved_by in table[1:]:
        step = (ws[:, t] - ws[:, t - 1]).abs()
        moved, still = (step[:, :3], step[:, 3:]) if moved_by == "backward" else (step[:, 3:], step[:, :3])
        assert moved.min() > 0 and still.max() == 0, f"step {t}"


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm(net: torch.nn.LSTMCell, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hochreiter and Schmidhuber's cell with a forget gate; gates in the order input, forget, cell, output."""
    weights = {name: p.detach().numpy() for name, p in net.named_parameters()}
    gates = x @ weights["weight_ih"].T + weights["bias_ih"] + h @ weights["weight_hh"].T + weights["bias_hh"]
    i, f, g, o = np.split(gates, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


@pytest.mark.parametrize("layers", [1, 4])
def test_walk(layers: int) -> None:
    """Reference: eq. 9 and 10 in numpy: encoder from a zero state, decoder fed by noise, tanh coefficients, residual steps.

    Codes of W+ move w_0 in all layers, while L_omega sees what it sees in W.
    """
    torch.manual_seed(0)
    net = LatentGenerator(w_dim=6, hidden=5, num_codes=3, residual=0.3).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    w, noise, codes = torch.randn(2, 6).double(), torch.randn(2, 4, 6).double(), torch.randn(2, 3, layers * 6).double()
    zero = np.zeros((2, 5))
    h, c = lstm(net.encoder, w.numpy(), zero, zero)
    matrix, bias = net.coefficients.weight.detach().numpy(), net.coefficients.bias.detach().numpy()
    expected = [np.tile(w.numpy(), layers)]
    for t in range(1, 5):
        h, c = lstm(net.decoder, noise[:, t - 1].numpy(), h, c)
        directions = codes[0 if t % 2 else 1].numpy()  # latter first: odd steps edit the former frame
        expected.append(expected[-1] + 0.3 * np.tanh(h @ matrix.T + bias) @ directions)
    np.testing.assert_allclose(net(w, noise, codes, "latter").detach().numpy(), np.stack(expected, 1), rtol=0, atol=1e-12)


def test_parameters() -> None:
    """Reference: the released code, without its two unused layers: 4,217,886 with w and hidden 512 and 30 codes."""
    with torch.device("meta"):
        net = LatentGenerator(512, 512, 30, 0.2)
    assert sum(p.numel() for p in net.parameters()) == 4_217_886


def test_initialisation() -> None:
    """Reference: the released code: each gate orthogonal, biases 0, coefficients N(0, 0.02)."""
    torch.manual_seed(0)
    net = LatentGenerator(64, 64, 30, 0.2)
    for cell in (net.encoder, net.decoder):
        for weight in (cell.weight_ih, cell.weight_hh):
            for gate in weight.chunk(4):
                torch.testing.assert_close(gate @ gate.t(), torch.eye(64), rtol=0, atol=1e-5)
        assert cell.bias_ih.abs().max() == cell.bias_hh.abs().max() == 0
    assert net.coefficients.bias.abs().max() == 0
    assert net.coefficients.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert LatentGenerator(64, 64, 30, 0.2, init_std=0.2).coefficients.weight.std().item() == pytest.approx(0.2, rel=0.1)


def test_a_longer_walk_begins_as_the_shorter_one() -> None:
    torch.manual_seed(0)
    net = LatentGenerator(6, 5, 3, 0.2)
    w, noise, codes = torch.randn(1, 6), torch.randn(1, 7, 6), torch.randn(2, 3, 6)
    assert torch.equal(net(w, noise, codes, "latter")[:, :4], net(w, noise[:, :3], codes, "latter"))


def test_a_scaled_step_is_a_step_along_longer_codes() -> None:
    """Reference: the same walk with the codes multiplied by hand."""
    torch.manual_seed(0)
    net, w, e, codes = LatentGenerator(6, 5, 3, 0.2), torch.randn(4, 6), torch.randn(4, 7, 6), torch.randn(2, 3, 6)
    by_hand = net(w, e, codes * torch.tensor([[1.0, 2, 3], [4, 5, 6]])[:, :, None], "latter")
    net.scale.copy_(torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    assert torch.equal(net(w, e, codes, "latter"), by_hand)
