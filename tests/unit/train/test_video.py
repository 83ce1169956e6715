"""Stage 3: rendering by eq. 11, losses of both kinds put together by hand, and going on from a state."""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from torch import Tensor, nn

from mvgan.config import Network, Run, Video
from mvgan.nets.generator import Generator
from mvgan.nets.video_discriminator import with_first_frame, with_reverse
from mvgan.train.guard import SKIPPED
from mvgan.train.ranks import Ranks
from mvgan.train.stage import Plan, fit
from mvgan.train.state import Draws, Progress, from_bytes, to_bytes
from mvgan.train.video import VideoStage, Views, render


RUN = Run(
    resolution=8,
    num_codes=3,
    network=Network(z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8, precision="fp32"),
    video=Video(batch=8, group=4, num_frames=4, hidden=8, g_steps=2, d_channels=2, d_scales=2),
)
CPU = torch.device("cpu")
SPREAD = torch.linalg.cholesky(torch.eye(8, dtype=torch.float64) + 0.5 * torch.ones(8, 8, dtype=torch.float64))


def build(**changes: Any) -> VideoStage:
    run = dataclasses.replace(RUN, video=dataclasses.replace(RUN.video, **changes))
    torch.manual_seed(0)
    codes = torch.linalg.qr(torch.randn(8, 6)).Q.t().reshape(2, 3, 8).contiguous()
    return VideoStage(run, Ranks(2, 4), CPU, Generator(run.network, 8), codes, spread=SPREAD)


def batches(images: int) -> Iterator[Tensor]:
    while True:
        yield torch.randint(0, 256, (8, 4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(images))
        images += 8


def equal(a: Any, b: Any) -> bool:
    """Whether two states hold the same bits."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


@pytest.mark.parametrize("loss", ["ralsgan", "log"])
def test_resuming_changes_no_bit(loss: str) -> None:
    """Reference: an unbroken run of 128 clips. Half of it, its state through bytes, a new stage, the other half."""
    half, whole = (Plan(total, 8, 8, 8) for total in (64, 128))
    unbroken = build(loss=loss)
    fit(unbroken, batches(0), Progress(), whole, [])
    first = build(loss=loss)
    progress = fit(first, batches(0), Progress(), half, [])
    second = build(loss=loss)
    second.load_state_dict(from_bytes(to_bytes(first.state_dict())))
    torch.manual_seed(99)
    fit(second, batches(64), progress, whole, [])
    assert equal(unbroken.state_dict(), second.state_dict())
    assert not equal(first.state_dict(), second.state_dict())


@pytest.mark.parametrize(("first", "sides"), [("latter", [1, 0, 1, 0, 1, 0]), ("former", [0, 1, 0, 1, 0, 1])])
def test_render(first: Any, sides: list[int]) -> None:
    """Reference: eq. 11, frame after frame: frame t is one side of the pair G_S(w_t), the sides by hand."""
    generator = Generator(RUN.network, 8)
    ws = torch.randn(2, 6, 8)
    clips = render(generator, ws, first, None)
    assert clips.shape == (2, 6, 3, 8, 8)
    for t, side in enumerate(sides):
        torch.testing.assert_close(clips[:, t], generator.synthesis(ws[:, t])[:, side], rtol=1e-4, atol=1e-5)


def test_a_clip_of_one_w_has_one_noise_map() -> None:
    """Without motion the frames of each side are the same: noise does not flicker."""
    stage = build()
    for block in stage.pair_generator.synthesis.blocks:
        torch.nn.init.ones_(block.conv1.noise_strength)
    draws = Draws(0, "test", 0, range(1), 2, CPU)
    clips = stage.render(torch.randn(2, 1, 8).expand(2, 4, 8), draws.noise(stage.noise_shapes, 4))
    torch.testing.assert_close(clips[:, 0], clips[:, 2])
    torch.testing.assert_close(clips[:, 1], clips[:, 3])
    other = stage.render(torch.randn(1, 1, 8).expand(2, 4, 8), draws.noise(stage.noise_shapes, 4))
    assert not torch.allclose(other[0], other[1])


def test_discriminator_inputs() -> None:
    """D_R sees clips beside their reverse, D_V beside their first frame and, where the draw says so, backwards in time."""
    stage = build()
    real, fake = torch.randn(3, 4, 3, 8, 8), torch.randn(3, 4, 3, 8, 8)
    flips = torch.tensor([True, False, True]), torch.tensor([False, False, True])
    inputs = stage.discriminator_inputs(real, fake, Views(*flips, torch.rand(3)))
    assert set(inputs) == {"d_v", "d_r"}
    assert torch.equal(inputs["d_r"][0], with_reverse(real)) and torch.equal(inputs["d_r"][1], with_reverse(fake))
    for found, clips, flip in zip(inputs["d_v"], (real, fake), flips, strict=True):
        for n in range(3):
            # What the released code flips is the whole input: the repeated first frame stays the clip's first.
            expected = with_first_frame(clips)[n]
            assert torch.equal(found[n], expected.flip(1) if flip[n] else expected)


def scores(stage: VideoStage, name: str, x: Tensor) -> list[np.ndarray]:
    return [s.detach().double().numpy() for s in stage.discriminators[name](x)]


def ralsgan(a: np.ndarray, b: np.ndarray) -> float:
    """Half of: a should exceed the mean of b by 1, b the mean of a by 0."""
    return float(0.5 * (np.mean((a - b.mean() - 1) ** 2) + np.mean((b - a.mean()) ** 2)))


@pytest.mark.parametrize("name", ["d_v", "d_r"])
def test_ralsgan_losses(name: str) -> None:
    """Reference: the released code's formulas in numpy, summed over the scales; the generator exchanges the roles."""
    stage = build(gp_weight=0.0)
    real, fake = torch.randn(8, 6, 4, 8, 8), torch.randn(8, 6, 4, 8, 8)
    r, f = scores(stage, name, real), scores(stage, name, fake)
    assert len(r) == 2
    d_loss = stage._d_phases[name](real, fake, torch.rand(8))
    assert d_loss.item() == pytest.approx(sum(map(ralsgan, r, f)), rel=1e-4)
    assert stage.generator_loss(name, real, fake).item() == pytest.approx(sum(map(ralsgan, f, r)), rel=1e-4)


@pytest.mark.parametrize("saturating", [True, False])
def test_log_losses(saturating: bool) -> None:
    """Reference: eq. 12-14 in numpy on the logits, summed over the scales."""
    stage = build(loss="log", saturating=saturating)
    real, fake = torch.randn(8, 6, 4, 8, 8), torch.randn(8, 6, 4, 8, 8)
    r, f = scores(stage, "d_v", real), scores(stage, "d_v", fake)
    p_r, p_f = [1 / (1 + np.exp(-s)) for s in r], [1 / (1 + np.exp(-s)) for s in f]
    eq_12 = sum(np.mean(np.log(a)) + np.mean(np.log(1 - b)) for a, b in zip(p_r, p_f, strict=True))
    assert stage._d_phases["d_v"](real, fake, torch.rand(8)).item() == pytest.approx(-eq_12, rel=1e-4)
    eq_14 = sum(np.mean(np.log(1 - b)) if saturating else -np.mean(np.log(b)) for b in p_f)
    assert stage.generator_loss("d_v", real, fake).item() == pytest.approx(eq_14, rel=1e-4)


def test_gradient_penalty_is_weighted() -> None:
    """Reference: the difference of the losses with and without it is its weight times its mean, by autograd on one sample each."""
    stage, without = build(gp_weight=10.0), build(gp_weight=0.0)
    real, fake, mix = torch.randn(8, 6, 4, 8, 8), torch.randn(8, 6, 4, 8, 8), torch.rand(8)
    found = (stage._d_phases["d_v"](real, fake, mix) - without._d_phases["d_v"](real, fake, mix)).item()
    total = 0.0
    for n in range(8):
        x = (mix[n] * real[n] + (1 - mix[n]) * fake[n])[None].requires_grad_(True)
        for index in range(2):
            (grad,) = torch.autograd.grad(stage.discriminators["d_v"](x)[index].sum(), x)
            total += (grad.norm(dim=1) - 1).square().mean().item()
    assert found == pytest.approx(10 * total / (8 * 2), rel=1e-3)


@pytest.mark.parametrize("loss", ["ralsgan", "log"])
def test_one_step_trains_what_it_should(loss: str) -> None:
    """L_omega, D_V and D_R move; the pair generator and the codes stay; discriminators require grad again afterwards."""
    stage = build(loss=loss)
    before = copy.deepcopy(stage.state_dict())
    frozen, codes = copy.deepcopy(stage.pair_generator.state_dict()), stage.codes.clone()
    stats = stage.step(next(batches(0)), Progress())
    norms = {f"{name}_grad_norm" for name in ("latent", "d_v", "d_r")}
    assert set(stage.look(8)) == {f"{name}_phase_s" for name in ("latent", "d_v", "d_r")}
    assert set(stats) == {"g_loss", "d_v_loss", "d_r_loss", "fake_motion", "real_motion", *norms, SKIPPED}
    assert all(value.isfinite() and value.ndim == 0 for value in stats.values())
    for name, state in stage.state_dict().items():
        still = [key for key, value in state["net"].items() if torch.equal(value, before[name]["net"][key])]
        assert set(still) <= {"encoder.weight_hh", "scale"}, (name, still)  # the encoder starts from zero; the scale is set, not trained
    assert equal(frozen, stage.pair_generator.state_dict()) and torch.equal(codes, stage.codes)
    assert all(p.requires_grad for net in stage.discriminators.values() for p in net.parameters())
    assert all(p.grad is None for p in stage.pair_generator.parameters())


def test_generator_steps_per_discriminator_step() -> None:
    """Adam counts: one step of each discriminator, g_steps of the latent code generator, each with samples of its own."""
    stage = build(g_steps=3)
    seen: list[Tensor] = []
    stage.latent.encoder.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    stage.step(next(batches(0)), Progress())
    counts = {name: {int(s["step"]) for s in optimizer.state.values()} for name, optimizer in stage.optimizers.items()}
    assert counts == {"latent": {3}, "d_v": {1}, "d_r": {1}}
    assert len(seen) == 4 and len({w[0, 0].item() for w in seen}) == 4


def test_optimizers() -> None:
    """Reference: the released code: Adam with betas 0.5 and 0.999."""
    for optimizer in build(lr=3e-4).optimizers.values():
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"], group["eps"]) == (3e-4, (0.5, 0.999), 1e-8)


def test_logged_motion() -> None:
    """Reference: numpy: mean squared difference of consecutive frames on [-1, 1]."""
    clips = next(batches(0))
    x = clips.numpy().astype(np.float64) / 127.5 - 1
    assert build().step(clips, Progress())["real_motion"].item() == pytest.approx(np.mean((x[:, 1:] - x[:, :-1]) ** 2), rel=1e-5)


def test_generator_steps_lower_the_generator_loss() -> None:
    """A check of signs: steps of L_omega alone, on fixed draws, raise the scores of its clips."""
    stage = build(loss="log", saturating=True, g_steps=1, lr=1e-3, residual=1.0)
    draws = Draws(0, "test", 0, range(2), 4, CPU)
    w, e = stage._latents(draws)
    views = Views(*(torch.zeros(8, dtype=torch.bool),) * 2, torch.zeros(8))
    real, maps = torch.randn(8, 4, 3, 8, 8), {}

    def noise(layer: int, resolution: int) -> Tensor:
        return maps.setdefault(layer, torch.zeros(32, 1, resolution, resolution))

    before = stage._g_phase(w, e, noise, real, views).item()
    for _ in range(10):
        stage._descend("latent", stage._g_phase, w, e, noise, real, views)
    assert stage._g_phase(w, e, noise, real, views).item() < before


SWITCHES = [("d_v",), ("d_r",), ("d_i",), ("d_v", "d_r", "d_i")]


@pytest.mark.parametrize("on", SWITCHES)
def test_each_discriminator_is_on_or_off(on: tuple[str, ...]) -> None:
    """What is on trains and is logged, what is off is not there; with any of them L_omega moves."""
    stage = build(**{name: name in on for name in ("d_v", "d_r", "d_i")})
    before = copy.deepcopy(stage.state_dict())
    assert set(before) == {"latent", *on}
    stats = stage.step(next(batches(0)), Progress())
    assert {name for name in stats if name.endswith("_loss")} == {"g_loss", *(f"{name}_loss" for name in on)}
    for name, state in stage.state_dict().items():
        assert not equal(state["net"], before[name]["net"]), name


def test_the_image_discriminator_compares_later_frames_with_first_ones() -> None:
    """By hand: of 4 frames the later ones are 1, 2 and 3, a third of the draws each; nothing flows back from the first."""
    stage = build(d_i=True)
    fake = torch.randn(4, 4, 3, 8, 8, requires_grad=True)
    views = Views(*(torch.zeros(4, dtype=torch.bool),) * 2, torch.tensor([0.0, 0.34, 0.99, 0.66]))
    first, later = stage.discriminator_inputs(torch.randn(4, 4, 3, 8, 8), fake, views)["d_i"]
    assert torch.equal(first, fake[:, 0]) and not first.requires_grad
    for n, place in enumerate((1, 2, 3, 2)):
        assert torch.equal(later[n], fake[n, place])


def test_the_drift_term() -> None:
    """Reference: the coefficients read back from the walk: mean over the batch, squared, averaged over steps and codes."""
    plain, held = build(), build(drift_weight=5.0)
    nn.init.normal_(plain.latent.coefficients.weight)
    held.latent.load_state_dict(plain.latent.state_dict())
    draws = Draws(0, "test", 0, range(2), 4, CPU)
    w, e = plain._latents(draws)
    arguments = w, e, draws.noise(plain.noise_shapes, 4), torch.randn(8, 4, 3, 8, 8), Views.draw(draws)
    steps = plain.latent(w, e, plain.codes, "latter").diff(dim=1) / plain.latent.residual
    coefficients = torch.stack([steps[:, t] @ plain.codes[t % 2].T for t in range(3)], dim=1)  # latter first: backward, forward, backward
    expected = 5 * coefficients.mean(0).square().mean()
    assert (held._g_phase(*arguments) - plain._g_phase(*arguments)).item() == pytest.approx(expected.item(), rel=1e-3)


def test_the_reach_term() -> None:
    """Reference: scipy's distance of each w of a walk from w_0, squared, by code, over 1."""
    plain, held = build(residual=2.0), build(residual=2.0, reach_weight=3.0)
    nn.init.normal_(plain.latent.coefficients.weight)
    held.latent.load_state_dict(plain.latent.state_dict())
    draws = Draws(0, "test", 0, range(2), 4, CPU)
    w, e = plain._latents(draws)
    arguments = w, e, draws.noise(plain.noise_shapes, 4), torch.randn(8, 4, 3, 8, 8), Views.draw(draws)
    inverse = np.linalg.inv((SPREAD @ SPREAD.T).numpy())
    walks = plain.latent(w, e, plain.codes, "latter").detach().double().numpy()
    squares = np.array([[mahalanobis(x, walk[0], inverse) ** 2 for x in walk] for walk in walks]) / plain.codes.shape[:2].numel()
    over = np.maximum(squares - 1, 0)
    assert 0 < np.mean(over > 0) < 1
    assert (held._g_phase(*arguments) - plain._g_phase(*arguments)).item() == pytest.approx(3 * over.mean(), rel=1e-3)


@pytest.mark.parametrize("at_once", [1, 5, 32])
def test_frames_rendered_in_parts_have_the_same_gradient(at_once: int) -> None:
    """Reference: all frames in one call. Parts need not divide the frames."""
    gradients, rows = [], []
    for stage in (build(), build(frames_at_once=at_once)):
        stage.pair_generator.synthesis.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
        stage.latent.double(), stage.pair_generator.double()
        for block in stage.pair_generator.synthesis.blocks:
            block.dtype = torch.float64
            nn.init.ones_(block.conv1.noise_strength)
        maps = {layer: torch.randn(8, 1, size, size, generator=torch.Generator().manual_seed(layer)).double().repeat_interleave(4, 0)
                for layer, size in stage.noise_shapes.items()}  # fmt: skip
        ws = torch.randn(8, 4, 8, generator=torch.Generator().manual_seed(0)).double().requires_grad_(True)
        clips = stage.render(ws, lambda layer, _: maps[layer])  # noqa: B023
        (clips.sin() * torch.arange(clips.numel()).view_as(clips).cos()).sum().backward()
        gradients.append((clips.detach(), ws.grad))
    parts = [at_once] * (32 // at_once) + [32 % at_once] * (32 % at_once > 0)
    assert rows[:4] == [8] * 4 and sorted(rows[4:]) == sorted(parts * 2)  # each part again for its gradient
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
