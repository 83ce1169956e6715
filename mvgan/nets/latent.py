"""The latent code generator L_omega: an LSTM that walks w along the motion codes (paper Sec. III-C, eq. 9-11)."""

from typing import Literal

import torch
from torch import Tensor, nn


Side = Literal["former", "latter"]
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

    def __init__(self, w_dim: int, hidden: int, num_codes: int, residual: float) -> None:
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
        nn.init.normal_(self.coefficients.weight, std=0.02)
        nn.init.zeros_(self.coefficients.bias)

    def forward(self, w: Tensor, noise: Tensor, codes: Tensor, first: Side) -> Tensor:
        """Walk from w.

        w: w_0 [n, w_dim]. noise: N(0, 1) [n, num_frames - 1, w_dim]. codes: [2, num_codes, w_dim], backward codes
        (they edit the former frame) and forward codes. Returns w_0 ... w_(num_frames-1) [n, num_frames, w_dim]:
        step t edits the side that frame t shows.
        """
        sides, codes = shown_sides(noise.shape[1] + 1, first), codes * self.scale[:, :, None]
        h, c = self.encoder(w)
        steps = [w]
        for t, e in enumerate(noise.unbind(1), start=1):
            h, c = self.decoder(e, (h, c))
            steps.append(steps[-1] + self.residual * torch.tanh(self.coefficients(h)) @ codes[sides[t]])
        return torch.stack(steps, dim=1)
