"""Stage 3: the latent code generator against video discriminators (paper Sec. III-C, eq. 9-14)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mvgan.config import Run
from mvgan.losses import discriminator_log, generator_log, gradient_penalty, ralsgan
from mvgan.nets.generator import Generator, Noise
from mvgan.nets.latent import LatentGenerator, Side, shown_sides
from mvgan.nets.space import by_layer
from mvgan.nets.video_discriminator import ImageDiscriminator, VideoDiscriminator, with_first_frame, with_reverse
from mvgan.train.adam import Adam
from mvgan.train.guard import Guard, told
from mvgan.train.pairs import to_range
from mvgan.train.ranks import Ranks
from mvgan.train.state import Draws, Progress, seed_of


CPU_ROWS = 8
"""Frames in a synthesis call on a CPU: at 64 px 8 took 20 % less time than 64, and no more than 1 a clip (`jobs.bench video-step`)."""


def render(
    generator: Generator, ws: Tensor, first: Side, noise: Noise | None, dtype: torch.dtype | None = None, at_once: int = 0
) -> Tensor:
    """Frames of latent sequences: ws [n, t, w_dim], or of W+, -> clips [n, t, 3, h, w], frame t from the side it shows (eq. 11).

    A GPU synthesizes all frames in one call, a CPU CPU_ROWS at once, which its caches like best. With `at_once` calls are of that many,
    whose activations are computed again for the gradient instead of kept. `noise` gives maps for n * t rows.
    """
    n, t, _ = ws.shape
    rows, sides = ws.flatten(0, 1), (torch.arange(t, device=ws.device) + shown_sides(1, first)[0]).remainder(2).repeat(n)

    def shown(start: int, stop: int) -> Tensor:
        maps = None if noise is None else lambda layer, resolution: noise(layer, resolution)[start:stop]
        pairs = generator.synthesis(rows[start:stop], maps, dtype)
        return pairs[torch.arange(stop - start, device=ws.device), sides[start:stop]]

    size = at_once or (CPU_ROWS if ws.device.type == "cpu" else n * t)
    places = [(start, min(start + size, n * t)) for start in range(0, n * t, size)]
    parts = [checkpoint(shown, *place, use_reentrant=False) if at_once else shown(*place) for place in places]
    return torch.cat(parts).unflatten(0, (n, t))


@dataclass(frozen=True)
class Views:
    """What discriminators are shown of clips [n, t, 3, h, w], drawn per clip."""

    flip_real: Tensor
    """Whether D_V sees the real clip backwards in time, [n]."""
    flip_fake: Tensor
    """And the generated one."""
    later: Tensor
    """Which frame after the first D_I sees, as a share of them in [0, 1), [n]."""

    @classmethod
    def draw(cls, draws: Draws) -> "Views":
        """Drawn from `draws`."""
        return cls(draws.uniform() < 0.5, draws.uniform() < 0.5, draws.uniform())


class _VideoGenerator(nn.Module):
    """L_omega's loss against the discriminators, which are kept in a list, out of DDP's sight."""

    def __init__(self, stage: "VideoStage") -> None:
        super().__init__()
        self.latent, self.stage = stage.latent, [stage]

    def forward(self, w: Tensor, e: Tensor, noise: Noise, real: Tensor, views: Views) -> Tensor:
        stage = self.stage[0]
        config = stage.run.video
        coefficients, _ = self.latent.steer(e, self.latent.encoder(w))
        ws = self.latent.walk(w, coefficients, stage.codes, config.first)
        fake = stage.render(ws, noise)
        loss = torch.zeros([], device=w.device)
        for name, pair in stage.discriminator_inputs(real, fake, views).items():
            loss = loss + stage.generator_loss(name, *pair)
        if config.drift_weight:
            loss = loss + config.drift_weight * stage.ranks.mean(coefficients).square().mean()
        if config.reach_weight:
            loss = loss + config.reach_weight * stage.ranks.loss(stage.beyond_reach(ws))
        return loss


class _VideoDiscriminator(nn.Module):
    """Loss of a discriminator on real and generated input."""

    def __init__(self, discriminator: nn.Module, stage: "VideoStage") -> None:
        super().__init__()
        self.discriminator, self.stage = discriminator, [stage]

    def forward(self, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
        config, mean = self.stage[0].run.video, self.stage[0].ranks.mean
        loss = torch.zeros(real.shape[0], device=real.device)
        scores = self.discriminator(torch.cat([real, fake]))
        for r, f in (scale.chunk(2) for scale in scores):
            if config.loss == "log":
                loss = loss + discriminator_log(r, f)
            else:
                loss = loss + 0.5 * (ralsgan(r, _mean(f, mean), 1) + ralsgan(f, _mean(r, mean), 0))
        if config.loss == "ralsgan" and config.gp_weight:
            loss = loss + config.gp_weight * gradient_penalty(self.discriminator, real, fake, mix)
        return self.stage[0].ranks.loss(loss)


class VideoStage:
    """L_omega and its discriminators with their optimizers; the pair generator and the codes stay as they are."""

    def __init__(
        self, run: Run, ranks: Ranks, device: torch.device, generator: Generator, codes: Tensor,
        scale: Tensor | None = None, spread: Tensor | None = None,
    ) -> None:  # fmt: skip
        """generator: from stage 1, frozen here. codes: [2, num_codes, w_dim], or of W+, backward and forward; scale: lengths of a step.

        spread: the lower triangular factor of the covariance of mapped w, float64 [w_dim, w_dim]; needed where there is a reach_weight.
        """
        self.run, self.ranks, self.device = run, ranks, device
        self.guard = Guard("video", ranks, run.max_skipped, device)
        self.pair_generator = generator.to(device).eval().requires_grad_(False)
        self.noise_shapes = self.pair_generator.synthesis.noise_shapes()
        self.codes = codes.to(device)
        self._white = None if spread is None else torch.linalg.inv(spread).T.to(self.codes)
        config = run.video
        torch.manual_seed(seed_of(run.seed, "video init"))
        self.latent = LatentGenerator(run.network.w_dim, config.hidden, codes.shape[1], config.residual, config.init_std).to(device)
        if scale is not None:
            self.latent.scale.copy_(scale)
        kinds = {"d_v": VideoDiscriminator, "d_r": VideoDiscriminator, "d_i": ImageDiscriminator}
        self.discriminators: dict[str, nn.Module] = {
            name: kind(config.d_channels, config.d_scales).to(device) for name, kind in kinds.items() if getattr(config, name)
        }
        nets: dict[str, nn.Module] = {"latent": self.latent, **self.discriminators}
        self.nets = nets
        self.optimizers = {name: Adam(net.parameters(), config.lr, (0.5, 0.999)) for name, net in nets.items()}
        self._g_phase = ranks.parallel(_VideoGenerator(self))
        self._d_phases = {name: ranks.parallel(_VideoDiscriminator(net, self)) for name, net in self.discriminators.items()}

    def render(self, ws: Tensor, noise: Noise | None) -> Tensor:
        """ws [n, t, w_dim] -> clips [n, t, 3, h, w]."""
        at_once = self.run.video.frames_at_once if torch.is_grad_enabled() else 0
        return render(self.pair_generator, ws, self.run.video.first, noise, at_once=at_once)

    def discriminator_inputs(self, real: Tensor, fake: Tensor, views: Views) -> dict[str, tuple[Tensor, Tensor]]:
        """Real and generated input of each discriminator there is: [n, 6, t, h, w] of D_R and D_V, [n, 3, h, w] of D_I.

        D_V sees half of its clips backwards in time. To D_I first frames of generated clips are real, later ones generated.
        """
        inputs: dict[str, tuple[Tensor, Tensor]] = {}
        if "d_r" in self.discriminators:
            inputs["d_r"] = with_reverse(real), with_reverse(fake)
        if "d_v" in self.discriminators:
            inputs["d_v"] = _flip_time(with_first_frame(real), views.flip_real), _flip_time(with_first_frame(fake), views.flip_fake)
        if "d_i" in self.discriminators:
            place = 1 + (views.later * (fake.shape[1] - 1)).long()
            inputs["d_i"] = fake[:, 0].detach(), fake[torch.arange(len(fake), device=fake.device), place]
        return inputs

    def generator_loss(self, name: str, real: Tensor, fake: Tensor) -> Tensor:
        """L_omega's loss against one discriminator: eq. 14, or its relativistic average form."""
        discriminator, config = self.discriminators[name], self.run.video
        loss = torch.zeros(fake.shape[0], device=fake.device)
        if config.loss == "log":
            for scores in discriminator(fake):
                loss = loss + generator_log(scores, saturating=config.saturating)
            return self.ranks.loss(loss)
        with torch.no_grad():
            real_scores = discriminator(real)
        for r, f in zip(real_scores, discriminator(fake), strict=True):
            loss = loss + 0.5 * (ralsgan(f, _mean(r, self.ranks.mean), 1) + ralsgan(r, _mean(f, self.ranks.mean), 0))
        return self.ranks.loss(loss)

    def beyond_reach(self, ws: Tensor) -> Tensor:
        """How far walks ws [n, t, w_dim] are from w_0, squared, over 1: per direction in standard deviations of mapped w; [n].

        In W+ by those of each layer's w.
        """
        assert self._white is not None
        white = by_layer(ws - ws[:, :1], len(self._white)) @ self._white
        squared = white.flatten(2).square().sum(2) / self.codes.shape[:2].numel()
        return (squared - 1).clamp_min(0).mean(1)

    def _latents(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """w_0 [n, w_dim] and the decoder's noise [n, t - 1, w_dim]."""
        with torch.no_grad():
            w = self.pair_generator.mapping(draws.normal(self.run.network.z_dim))
        return w, draws.normal(self.run.video.num_frames - 1, self.run.network.w_dim)

    def step(self, batch: Tensor, progress: Progress) -> dict[str, Tensor]:
        """One step of each discriminator and `g_steps` of L_omega on clips uint8 [n, t, 3, h, w].

        Returns scalars to log, NaN for those of phases left out.
        """
        real = to_range(batch)
        stats = self._step_discriminators(real, progress)
        for net in self.discriminators.values():
            net.requires_grad_(False)
        for index in range(self.run.video.g_steps):
            draws = self._draws(f"video generator {index}", progress)
            w, e = self._latents(draws)
            views = Views.draw(draws)
            noise = draws.noise(self.noise_shapes, self.run.video.num_frames)
            loss, taken = self._descend("latent", self._g_phase, w, e, noise, real, views)
            stats["g_loss"] = torch.where(taken, loss, stats.get("g_loss", torch.nan))  # of the last step that was taken
        for net in self.discriminators.values():
            net.requires_grad_(True)
        return stats | self.guard.measures()

    def look(self, images: int) -> dict[str, float]:
        """As `Stage` has it."""
        return self.guard.look(images)

    def _step_discriminators(self, real: Tensor, progress: Progress) -> dict[str, Tensor]:
        draws = self._draws("video discriminators", progress)
        with torch.no_grad():
            w, e = self._latents(draws)
            ws = self.latent(w, e, self.codes, self.run.video.first)
            fake = self.render(ws, draws.noise(self.noise_shapes, self.run.video.num_frames))
        stats = {"fake_motion": self.ranks.loss(_motion(fake)), "real_motion": self.ranks.loss(_motion(real))}
        for name, (r, f) in self.discriminator_inputs(real, fake, Views.draw(draws)).items():
            loss, taken = self._descend(name, self._d_phases[name], r, f, draws.uniform())
            stats[f"{name}_loss"] = told(loss, taken)
        return stats

    def _draws(self, purpose: str, progress: Progress) -> Draws:
        return Draws(self.run.seed, purpose, progress.images, self.ranks.hosted, self.ranks.group, self.device)

    def _descend(self, name: str, phase: nn.Module, *arguments: Any) -> tuple[Tensor, Tensor]:
        """A step of the network `name` along the loss of `phase`: the loss, and whether it was taken."""
        found: list[Tensor] = []

        def losses() -> Iterator[Tensor]:
            found.append(phase(*arguments))
            yield found[0]

        taken = self.guard.descend(name, self.optimizers[name], losses())
        return found[0].detach(), taken

    def state_dict(self) -> dict[str, Any]:
        """Everything that `step` depends on, but the progress and what stages 1 and 2 gave."""
        return {name: {"net": net.state_dict(), "optimizer": self.optimizers[name].state_dict()} for name, net in self.nets.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name, net in self.nets.items():
            net.load_state_dict(state[name]["net"])
            self.optimizers[name].load_state_dict(state[name]["optimizer"])


def _mean(scores: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean of patch scores [n, 1, t, h, w] over the whole batch."""
    return mean(scores.flatten(1).mean(dim=1))


def _flip_time(x: Tensor, flip: Tensor) -> Tensor:
    """Reverse time of those samples of [n, c, t, h, w] where flip [n] holds."""
    return torch.where(flip[:, None, None, None, None], x.flip(2), x)


def _motion(clips: Tensor) -> Tensor:
    """Mean squared difference of consecutive frames, on [-1, 1], per sample [n]."""
    return (clips[:, 1:] - clips[:, :-1]).square().flatten(1).mean(dim=1)
