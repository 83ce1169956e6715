"""The latent code generator L_omega: an LSTM that walks w along the motion codes (paper Sec. III-C, eq. 9-11)."""

from typing import Literal

import torch
from torch import Tensor, nn

from mvgan.nets.space import in_space_of


Side = Literal["former", "latter"]
State = tuple[Tensor, Tensor]
"""Hidden and cell state of an LSTM cell, [n, hidden] each."""

FORMER, LATTER = 0, 1


def shown_sides(num_frames: int, first: Side) -> list[int]:
    """Which frame of the pair G_S(w_t) is frame t of the video: the sides take turns (eq. 11).

    Starting from the latter: x_01, x_10, x_21, x_30, ...; from the former: x_00, x_11, x_20, x_31, ...
    """
    start = FORMER if first == "former" else LATTER
    return [(start + t) % 2 for t in range(num_frames)]


class LatentGenerator(nn.Module):
    """LSTM encoder of w_0 and LSTM decoder with fresh noise each step (eq. 9), coefficients of motion codes (eq. 10).

    `scale` [2, num_codes] is the length of a step of 1 along each code; ones, unless the stage sets it.
    Source: the paper and its released code (orthogonal cells, tanh, residual).
    """

    scale: Tensor

    def __init__(self, w_dim: int, hidden: int, num_codes: int, residual: float, init_std: float = 0.02) -> None:
        super().__init__()
        self.encoder = nn.LSTMCell(w_dim, hidden)
        self.decoder = nn.LSTMCell(w_dim, hidden)
        self.coefficients = nn.Linear(hidden, num_codes)
        self.residual = residual
        self.register_buffer("scale", torch.ones(2, num_codes))
        for cell in (self.encoder, self.decoder):
            for weight in (cell.weight_ih, cell.weight_hh):
                for gate in weight.data.chunk(4):
                    nn.init.orthogonal_(gate)
            nn.init.zeros_(cell.bias_ih)
            nn.init.zeros_(cell.bias_hh)
        nn.init.normal_(self.coefficients.weight, std=init_std)
        nn.init.zeros_(self.coefficients.bias)

    def forward(self, w: Tensor, noise: Tensor, codes: Tensor, first: Side) -> Tensor:
        """Walk from w.

        w: w_0 [n, w_dim]. noise: N(0, 1) [n, num_frames - 1, w_dim]. codes: [2, num_codes, w_dim], backward codes
        (they edit the former frame) and forward codes. Returns w_0 ... w_(num_frames-1) [n, num_frames, w_dim]:
        step t edits the side that frame t shows. Codes of W+ [2, num_codes, num_ws * w_dim] give a walk through W+.
        """
        coefficients, _ = self.steer(noise, self.encoder(w))
        return self.walk(w, coefficients, codes, first)

    def steer(self, noise: Tensor, state: State) -> tuple[Tensor, State]:
        """Coefficients M_t in (-1, 1) [n, steps, num_codes] from `noise` [n, steps, w_dim], and the state after them (eq. 9).

        state: h and c of the decoder, at first the encoder's of w_0. A walk in pieces has the coefficients of the whole one.
        """
        found = []
        for e in noise.unbind(1):
            state = self.decoder(e, state)
            found.append(torch.tanh(self.coefficients(state[0])))
        return torch.stack(found, dim=1), state

    def walk(self, w: Tensor, coefficients: Tensor, codes: Tensor, first: Side) -> Tensor:
        """w_0 ... w_steps [n, steps + 1, w_dim] by eq. 10, from w [n, w_dim] and `coefficients` [n, steps, num_codes].

        With codes of W+ these are of W+; w may be too.
        """
        sides, codes = shown_sides(coefficients.shape[1] + 1, first), codes * self.scale[:, :, None]
        ws = [in_space_of(codes, w)]
        for t, coefficient in enumerate(coefficients.unbind(1), start=1):
            ws.append(ws[-1] + self.residual * coefficient @ codes[sides[t]])
        return torch.stack(ws, dim=1)
