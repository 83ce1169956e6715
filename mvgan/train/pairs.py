"""Stage 1: MotionStyleGAN on frame pairs (paper Sec. III-A), as StyleGAN2 trains."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mvgan.config import Run
from mvgan.losses import discriminator_logistic, generator_logistic, path_lengths, r1_penalty
from mvgan.nets.discriminator import Discriminator
from mvgan.nets.generator import Generator, Noise
from mvgan.train.adam import Adam
from mvgan.train.augment import Augmentation, Shown
from mvgan.train.ema import ema_beta, update_ema
from mvgan.train.guard import Guard, told
from mvgan.train.ranks import Ranks
from mvgan.train.state import Draws, Progress, seed_of


PL_DECAY = 0.01
W_AVG_BETA = 0.998


def to_range(frames: Tensor) -> Tensor:
    """uint8 frames -> float32 in [-1, 1]."""
    return frames.float() / 127.5 - 1


def to_uint8(frames: Tensor) -> np.ndarray:
    """Frames in [-1, 1], clamped to it -> uint8 on the CPU."""
    return ((frames.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


class _GeneratorMain(nn.Module):
    """Non-saturating loss of G; D is kept in a list, so that DDP sees the generator alone."""

    def __init__(self, generator: Generator, discriminator: Discriminator) -> None:
        super().__init__()
        self.generator, self.fixed = generator, [discriminator]

    def forward(self, ranks: Ranks, z: Tensor, z_mix: Tensor, cutoff: Tensor, noise: Noise, shown: Shown) -> tuple[Tensor, Tensor]:
        ws = mixed_ws(self.generator, z, z_mix, cutoff)
        logits = self.fixed[0](shown(self.generator.synthesis(ws, noise)), ranks.group)
        return ranks.loss(generator_logistic(logits)), ws[:, 0].detach()


class _PathLength(nn.Module):
    """Path length regularisation of G (StyleGAN2, Eq. 4)."""

    def __init__(self, generator: Generator, weight: float) -> None:
        super().__init__()
        self.generator, self.weight = generator, weight

    def forward(
        self, ranks: Ranks, z: Tensor, z_mix: Tensor, cutoff: Tensor, y: Tensor, noise: Noise, pl_mean: Tensor
    ) -> tuple[Tensor, Tensor]:
        ws = mixed_ws(self.generator, z, z_mix, cutoff)
        frames = self.generator.synthesis(ws, noise)
        lengths = path_lengths(frames, ws, y)
        mean = pl_mean.lerp(ranks.mean(lengths), PL_DECAY)
        # The zero keeps every parameter in the graph, as DDP expects: biases have no part in the lengths.
        return ranks.loss((lengths - mean).square()) * self.weight + 0 * frames.sum(), mean.detach()


class _DiscriminatorMain(nn.Module):
    """Logistic loss of D on real and generated pairs."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, ranks: Ranks, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        real_logits, fake_logits = self.discriminator(torch.cat([real, fake]), ranks.group).chunk(2)
        return ranks.loss(discriminator_logistic(real_logits, fake_logits)), real_logits.detach(), fake_logits.detach()


class _R1(nn.Module):
    """R1 penalty of D on real pairs, with respect to what they are before augmentation."""

    def __init__(self, discriminator: Discriminator, gamma: float) -> None:
        super().__init__()
        self.discriminator, self.gamma = discriminator, gamma

    def forward(self, ranks: Ranks, real: Tensor, shown: Shown) -> tuple[Tensor]:
        real = real.detach().requires_grad_(True)
        logits = self.discriminator(shown(real), ranks.group)
        return (ranks.loss(r1_penalty(logits, real, self.gamma)) + 0 * logits.sum(),)


def mixed_ws(generator: Generator, z: Tensor, z_mix: Tensor, cutoff: Tensor) -> Tensor:
    """Style mixing: layers from `cutoff` [n] on take the second code. Returns ws [n, num_ws, w_dim]."""
    w, w_mix = generator.mapping(torch.cat([z, z_mix])).chunk(2)
    first = torch.arange(generator.synthesis.num_ws, device=z.device)[None] < cutoff[:, None]
    return torch.where(first[:, :, None], w[:, None], w_mix[:, None])


class PairStage:
    """G and D of frame pairs with their optimizers; `step` runs the phases that are due."""

    def __init__(self, run: Run, ranks: Ranks, device: torch.device) -> None:
        self.run, self.ranks, self.device = run, ranks, device
        self.parts = ranks.parts(run.pairs.accumulate)
        self.guard = Guard("pairs", ranks, run.max_skipped, device)
        config = run.pairs
        torch.manual_seed(seed_of(run.seed, "init"))
        self.generator = Generator(run.network, run.resolution).to(device)
        self.discriminator = Discriminator(run.network, run.resolution).to(device)
        self.noise_shapes = self.generator.synthesis.noise_shapes()
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.pl_mean = torch.zeros([], device=device)
        self.augmentation = Augmentation(run, ranks, device)
        self.g_optimizer = _adam(self.generator, config.lr, config.pl_every if config.pl_weight else 0)
        self.d_optimizer = _adam(self.discriminator, config.lr, config.r1_every if config.r1_gamma else 0)
        self._g_main = ranks.parallel(_GeneratorMain(self.generator, self.discriminator))
        self._d_main = ranks.parallel(_DiscriminatorMain(self.discriminator))
        self._path_length = ranks.parallel(_PathLength(self.generator, config.pl_weight * config.pl_every))
        self._r1 = ranks.parallel(_R1(self.discriminator, config.r1_gamma * config.r1_every))

    def draws(self, purpose: str, progress: Progress, ranks: Ranks, group: int | None = None) -> Draws:
        """Random numbers of this step for the shards of `ranks`, this worker's or those of a part."""
        return Draws(self.run.seed, purpose, progress.images, ranks.hosted, group or ranks.group, self.device)

    def _descend(
        self,
        name: str,
        phase: nn.Module,
        optimizer: Adam,
        arguments: Callable[[Ranks], tuple[Any, ...]],
    ) -> tuple[Tensor, list[Tensor]]:
        """A step of `optimizer` along the loss of `phase`, part by part: whether it was taken, and what `phase` gives, the loss first.

        What lies along the first dimension is put together, scalars are averaged.
        """
        found: list[tuple[Tensor, ...]] = []
        shares = [ranks.num_shards / self.ranks.num_shards for ranks in self.parts]

        def losses() -> Iterator[Tensor]:
            for ranks, share in zip(self.parts, shares, strict=True):
                with self.ranks.apart(phase) if ranks is not self.parts[-1] else nullcontext():
                    found.append(phase(ranks, *arguments(ranks)))
                    yield found[-1][0] * share

        taken = self.guard.descend(name, optimizer, losses())
        outputs = zip(*found, strict=True)
        return taken, [torch.cat(some) if some[0].ndim else _weighted(some, shares) for some in outputs]

    def step(self, batch: Tensor, progress: Progress) -> dict[str, Tensor]:
        """One step on samples uint8 [n, frames, 3, h, w]; returns scalars to log, NaN for those of phases left out."""
        config = self.run.pairs
        index = progress.images // config.batch
        real = to_range(batch)
        stats = self._step_generator(progress)
        if config.pl_weight and index % config.pl_every == 0:
            stats |= self._step_path_length(progress)
        stats |= self._step_discriminator(real, progress)
        if config.r1_gamma and index % config.r1_every == 0:
            stats |= self._step_r1(real, progress)
        # What is given an average does not begin it anew (StyleGAN2-ADA, --resume).
        rampup = math.inf if config.init_from else config.ema_rampup
        beta = ema_beta(progress.images + config.batch, config.batch, config.ema_kimg, rampup)
        update_ema(self.ema, self.generator, beta)
        return stats | self.guard.measures()

    def look(self, images: int) -> dict[str, float]:
        """As `Stage` has it."""
        return self.guard.look(images)

    def _latents(self, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """z, the z to mix in, and the layer from which it holds; that layer is past the last where nothing is mixed."""
        z, z_mix = draws.normal(self.run.network.z_dim), draws.normal(self.run.network.z_dim)
        num_ws = self.generator.synthesis.num_ws
        chance, place = draws.uniform(2).unbind(1)
        cutoff = 1 + (place * (num_ws - 1)).floor()
        return z, z_mix, torch.where(chance < self.run.pairs.style_mixing, cutoff, num_ws)

    def _of_part(self, real: Tensor, ranks: Ranks) -> Tensor:
        """The real pairs of a part of this worker's batch."""
        place = self.ranks.hosted.index(ranks.hosted[0]) * ranks.group
        return real[place : place + len(ranks.hosted) * ranks.group]

    def _step_generator(self, progress: Progress) -> dict[str, Tensor]:
        def arguments(ranks: Ranks) -> tuple[Any, ...]:
            draws = self.draws("generator", progress, ranks)
            return *self._latents(draws), draws.noise(self.noise_shapes), self.augmentation.shown(draws)

        self.discriminator.requires_grad_(False)
        taken, (loss, w) = self._descend("G", self._g_main, self.g_optimizer, arguments)
        self.discriminator.requires_grad_(True)
        w_avg = self.generator.mapping.w_avg
        with torch.no_grad():
            w_avg.copy_(torch.where(taken, self.ranks.mean(w).lerp(w_avg, W_AVG_BETA), w_avg))
        return {"g_loss": told(loss, taken)}

    def _step_path_length(self, progress: Progress) -> dict[str, Tensor]:
        def arguments(ranks: Ranks) -> tuple[Any, ...]:
            # Half the batch is enough for this estimate (StyleGAN2, Appendix B); never across logical shards.
            draws = self.draws("path_length", progress, ranks, max(1, ranks.group // 2))
            latents = self._latents(draws)
            y = draws.normal(self.run.network.frames, 3, self.run.resolution, self.run.resolution)
            return *latents, y, draws.noise(self.noise_shapes), self.pl_mean

        taken, (loss, mean) = self._descend("path length", self._path_length, self.g_optimizer, arguments)
        self.pl_mean = torch.where(taken, mean, self.pl_mean)
        return {"pl_penalty": told(loss, taken) / self.run.pairs.pl_every, "pl_mean": self.pl_mean}

    def _step_discriminator(self, real: Tensor, progress: Progress) -> dict[str, Tensor]:
        def arguments(ranks: Ranks) -> tuple[Any, ...]:
            draws = self.draws("discriminator", progress, ranks)
            with torch.no_grad():
                ws = mixed_ws(self.generator, *self._latents(draws))
                shown = self.augmentation.shown(draws)
                fake = shown(self.generator.synthesis(ws, draws.noise(self.noise_shapes)))
                return shown(self._of_part(real, ranks)), fake

        taken, (loss, real_logits, fake_logits) = self._descend("D", self._d_main, self.d_optimizer, arguments)
        found = {"d_loss": loss, "real_sign": self.ranks.loss(real_logits.sign()), "fake_sign": self.ranks.loss(fake_logits.sign())}
        return {name: told(value, taken) for name, value in found.items()} | self.augmentation.observe(real_logits, taken, progress)

    def _step_r1(self, real: Tensor, progress: Progress) -> dict[str, Tensor]:
        def arguments(ranks: Ranks) -> tuple[Any, ...]:
            return self._of_part(real, ranks), self.augmentation.shown(self.draws("r1", progress, ranks))

        taken, (loss,) = self._descend("R1", self._r1, self.d_optimizer, arguments)
        return {"r1": told(loss, taken) / self.run.pairs.r1_every}

    def _parts(self) -> dict[str, Any]:
        parts = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "ema": self.ema,
            "g_optimizer": self.g_optimizer,
            "d_optimizer": self.d_optimizer,
        }
        return parts | {"augment": self.augmentation} if self.augmentation.adaptive else parts

    def state_dict(self) -> dict[str, Any]:
        """Everything that `step` depends on, but the progress."""
        return {name: part.state_dict() for name, part in self._parts().items()} | {"pl_mean": self.pl_mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.pl_mean = state["pl_mean"].to(self.device)


def _weighted(scalars: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    return torch.stack([scalar.detach() * share for scalar, share in zip(scalars, shares, strict=True)]).sum()


def _adam(net: nn.Module, lr: float, lazy_every: int) -> Adam:
    """Adam with the correction for lazy regularisation (StyleGAN2, Appendix B); lazy_every 0: none."""
    c = lazy_every / (lazy_every + 1) if lazy_every else 1.0
    return Adam(net.parameters(), lr * c, (0.0, 0.99**c))
