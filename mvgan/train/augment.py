"""Augmentation in stage 1: what D is shown, and how strongly (adaptive discriminator augmentation, ADA)."""

from collections.abc import Callable

import torch
from torch import Tensor

from mvgan.config import Run
from mvgan.nets.augment import Augment, draw_transforms
from mvgan.train.ranks import Ranks
from mvgan.train.state import Draws, Progress


Shown = Callable[[Tensor], Tensor]
"""Gives what D is shown of frames [n, 2, 3, h, w]; each call draws anew."""


class Augmentation:
    """Augments all frames that D sees with probability `p`: fixed, or steered by how often D is right about real pairs.

    `p` moves by a fixed amount each `ada_interval` steps: up while the mean sign of D on the real pairs since the last move is
    above `ada_target`, down while it is below. Source: StyleGAN2-ADA, Sec. 3.1, with r_t as the measure.
    """

    def __init__(self, run: Run, ranks: Ranks, device: torch.device) -> None:
        self.config, self.ranks = run.pairs, ranks
        self.adaptive = self.config.augment == "ada"
        self.pipe = None if self.config.augment == "none" else Augment(run.resolution).to(device)
        self.p = torch.full([], 0.0 if self.adaptive else self.config.augment_p, device=device)
        self.sign_sum, self.sign_count = torch.zeros([], device=device), torch.zeros([], device=device)

    def shown(self, draws: Draws) -> Shown:
        """Augments with random numbers of `draws`."""
        pipe = self.pipe
        if pipe is None:
            return lambda frames: frames
        return lambda frames: pipe(frames, draw_transforms(self.p, draws.uniform, draws.normal))

    @torch.no_grad()
    def observe(self, real_logits: Tensor, taken: Tensor, progress: Progress) -> dict[str, Tensor]:
        """Take note of D's logits [n] on the real pairs of this step, if it was taken, and move `p` when that is due; what to log."""
        if self.pipe is None:
            return {}
        if self.adaptive:
            self.sign_sum = torch.where(taken, self.sign_sum + self.ranks.mean(real_logits.sign()), self.sign_sum)
            self.sign_count = self.sign_count + taken
            if (progress.images // self.config.batch + 1) % self.config.ada_interval == 0:
                self._move()
        return {"augment_p": self.p}

    def _move(self) -> None:
        step = self.config.batch * self.config.ada_interval / (self.config.ada_kimg * 1000)
        direction = (self.sign_sum - self.config.ada_target * self.sign_count).sign()  # none where all steps were left out
        self.p = (self.p + step * direction).clamp(0, 1)
        self.sign_sum, self.sign_count = torch.zeros_like(self.sign_sum), torch.zeros_like(self.sign_count)

    def state_dict(self) -> dict[str, Tensor]:
        """`p` and the signs since its last move, equal on all workers."""
        return {"p": self.p, "sign_sum": self.sign_sum, "sign_count": self.sign_count}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self.p, self.sign_sum, self.sign_count = (state[name].to(self.p.device) for name in ("p", "sign_sum", "sign_count"))
