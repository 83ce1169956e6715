"""Stage 1: phases and when they are due, style mixing, w average, averaged generator, and going on from a state."""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from mvgan.config import InputError, Network, Pairs, Run
from mvgan.train.ema import ema_beta
from mvgan.train.guard import SKIPPED
from mvgan.train.pairs import PairStage, mixed_ws, to_range
from mvgan.train.ranks import Ranks
from mvgan.train.stage import Plan, fit
from mvgan.train.state import Draws, Progress, from_bytes, to_bytes


RUN = Run(
    resolution=8,
    network=Network(z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8, precision="fp32"),
    pairs=Pairs(batch=8, group=4, r1_every=3, pl_every=2),
)
CPU = torch.device("cpu")


def build(**changes: Any) -> PairStage:
    run = dataclasses.replace(RUN, pairs=dataclasses.replace(RUN.pairs, **changes))
    return PairStage(run, Ranks(run.pairs.batch // run.pairs.group, run.pairs.group), CPU)


def batch(images: int = 0, size: int = 8) -> Tensor:
    return torch.randint(0, 256, (size, 2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(images))


def batches(images: int) -> Iterator[Tensor]:
    while True:
        yield batch(images)
        images += 8


def numbers(stats: dict[str, Tensor]) -> dict[str, float]:
    """What a step has logged."""
    return {name: float(value) for name, value in stats.items()}


def equal(a: Any, b: Any) -> bool:
    """Whether two states hold the same bits."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


ADA = {"augment": "ada", "ada_kimg": 0.06, "ada_target": 0.1, "ada_interval": 3}
"""p moves by 0.4 every 3 steps."""


@pytest.mark.parametrize("changes", [{}, ADA, {"augment": "fixed", "augment_p": 0.6}], ids=["none", "ada", "fixed"])
def test_resuming_changes_no_bit(changes: dict[str, Any]) -> None:
    """Reference: an unbroken run of 128 pairs. A part of it, its state through bytes, a new stage, the rest."""
    part, whole = (Plan(total, 8, 8, 8) for total in (40, 128))
    unbroken = build(**changes)
    fit(unbroken, batches(0), Progress(), whole, [])
    first = build(**changes)
    progress = fit(first, batches(0), Progress(), part, [])
    saved = to_bytes(first.state_dict())
    second = build(**changes)
    torch.manual_seed(99)  # nothing may come from torch's own generator
    second.load_state_dict(from_bytes(saved))
    fit(second, batches(40), progress, whole, [])
    assert equal(unbroken.state_dict(), second.state_dict())
    assert not equal(first.state_dict(), second.state_dict())


@pytest.mark.parametrize("lost", ["p", "sign_sum"])
def test_resuming_needs_the_state_of_ada(lost: str) -> None:
    """A negative control: with p or the signs since its last move lost, the same run ends with other weights."""
    part, whole = (Plan(total, 8, 8, 8) for total in (40, 64))
    unbroken, resumed = build(**ADA), build(**ADA)
    progress = fit(unbroken, batches(0), Progress(), part, [])
    state = from_bytes(to_bytes(unbroken.state_dict()))
    assert float(state["augment"]["p"]) > 0 and float(state["augment"]["sign_count"]) == 2
    # What is lost starts anew; a sum is given the other sign, since a small change need not change the direction of a move.
    state["augment"][lost] = torch.zeros([]) if lost == "p" else -10 * state["augment"][lost].sign()
    resumed.load_state_dict(state)
    for stage in (unbroken, resumed):
        fit(stage, batches(40), progress, whole, [])
    assert not equal(unbroken.state_dict()["generator"], resumed.state_dict()["generator"])


def test_a_state_without_that_of_ada_is_refused() -> None:
    state = build().state_dict()
    assert "augment" not in state
    with pytest.raises(KeyError, match="augment"):
        build(**ADA).load_state_dict(state)


def test_a_loaded_stage_lets_go_of_the_state_it_was_given() -> None:
    """A state dictionary refers to live weights; a stage that trained on must not change one taken before, once it is bytes."""
    stage = build()
    saved = to_bytes(stage.state_dict())
    stage.step(batch(), Progress())
    assert not equal(from_bytes(saved), stage.state_dict())
    stage.load_state_dict(from_bytes(saved))
    assert equal(from_bytes(saved)["generator"], stage.state_dict()["generator"])


def test_phases_are_due_by_images() -> None:
    """R1 every 3 steps and path length every 2, counted from image 0, so that a resumed run keeps the rhythm."""
    stage = build()
    for step in range(7):
        stats = stage.step(batch(), Progress(8 * step))
        assert ("r1" in stats) == (step % 3 == 0) and ("pl_mean" in stats) == (step % 2 == 0)
        assert all(value.isfinite() for value in stats.values())


def test_regularisation_can_be_turned_off() -> None:
    stage = build(r1_gamma=0.0, pl_weight=0.0)
    assert set(stage.step(batch(), Progress())) == {"g_loss", "d_loss", "real_sign", "fake_sign", "g_grad_norm", "d_grad_norm", SKIPPED}
    assert set(stage.look(8)) == {"g_phase_s", "d_phase_s"}


def test_d_sees_nothing_but_augmented_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every phase, real and generated pairs apart; the gradient of R1 is with respect to the real pairs as they are."""
    stage = build(augment="fixed", r1_every=1, pl_weight=0.0)
    seen, shown = [], []
    stage.discriminator.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))

    def augment(frames: Tensor) -> Tensor:
        shown.append(frames)
        return 100 + 3 * frames

    monkeypatch.setattr(stage.augmentation, "shown", lambda draws: augment)
    stage.step(batch(), Progress())
    fake_of_g, fake, real, real_of_r1 = shown
    for found, expected in zip(seen, (fake_of_g, torch.cat([real, fake]), real_of_r1), strict=True):
        torch.testing.assert_close(found, 100 + 3 * expected)
    assert torch.equal(real, to_range(batch())) and torch.equal(real_of_r1, real) and real_of_r1.is_leaf
    assert not torch.equal(fake, fake_of_g) and fake_of_g.requires_grad and not fake.requires_grad


def test_augmentation_draws_for_each_phase_and_changes_no_other_draw() -> None:
    """Latents and noise are those of the run without augmentation: at p = 0, but for rounding, nothing changes."""
    plain, augmented = build(pl_weight=0.0), build(augment="ada", ada_target=1.0, pl_weight=0.0)
    for step in range(4):
        expected, found = (stage.step(batch(8 * step), Progress(8 * step)) for stage in (plain, augmented))
        assert found.pop("augment_p") == 0
        assert numbers(found) == pytest.approx(numbers(expected), rel=1e-3)


def test_ada_is_steered_by_real_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: D itself, as it is before its step, on the real pairs, which p = 0 leaves as they are."""
    stage = build(augment="ada")
    expected = stage.discriminator(to_range(batch()), 4).detach()
    seen: list[Tensor] = []
    monkeypatch.setattr(stage.augmentation, "observe", lambda logits, *_: seen.append(logits) or {})
    stage.step(batch(), Progress())
    torch.testing.assert_close(seen, [expected], rtol=1e-3, atol=1e-4)


def test_lazy_regularisation_corrects_adam() -> None:
    """Reference: StyleGAN2, Appendix B: learning rate and betas to the power of c = k / (k + 1)."""
    stage = build(lr=0.002, r1_every=16, pl_every=4)
    for optimizer, c in ((stage.g_optimizer, 4 / 5), (stage.d_optimizer, 16 / 17)):
        (group,) = optimizer.param_groups
        assert group["lr"] == pytest.approx(0.002 * c) and group["eps"] == 1e-8
        assert group["betas"] == (0.0, pytest.approx(0.99**c))
    stage = build(lr=0.002, r1_gamma=0.0, pl_weight=0.0)
    assert {optimizer.param_groups[0]["lr"] for optimizer in (stage.g_optimizer, stage.d_optimizer)} == {0.002}


def test_one_step_trains_both_networks_and_nothing_else() -> None:
    """All parameters of G and D move (noise maps stay), but for G's biases of nothing; D requires grad again afterwards."""
    stage = build()
    before = copy.deepcopy(stage.state_dict())
    stage.step(batch(), Progress())
    after = stage.state_dict()
    for name in ("generator", "discriminator"):
        still = [key for key, value in after[name].items() if torch.equal(value, before[name][key])]
        assert all(key.endswith("noise_const") for key in still), still
    assert all(p.requires_grad for p in stage.discriminator.parameters())
    assert not any(p.requires_grad for p in stage.ema.parameters())


def test_averaged_generator() -> None:
    """Reference: the recursion of the running mean, with the share that the images seen so far give; w_avg is copied."""
    stage = build(ema_kimg=0.1, ema_rampup=2.0)
    average = {name: p.detach().clone() for name, p in stage.generator.named_parameters()}
    for step in range(3):
        stage.step(batch(), Progress(8 * step))
        beta = ema_beta(8 * (step + 1), 8, 0.1, 2.0)
        average = {name: beta * average[name] + (1 - beta) * p.detach() for name, p in stage.generator.named_parameters()}
    for name, p in stage.ema.named_parameters():
        torch.testing.assert_close(p, average[name], rtol=1e-5, atol=1e-6)
    assert torch.equal(stage.ema.mapping.w_avg, stage.generator.mapping.w_avg)


def test_running_mean_of_w() -> None:
    """Reference: StyleGAN2: 0.998 of the old mean and 0.002 of the batch's mean w, before mixing."""
    stage = build(style_mixing=1.0, pl_weight=0.0)
    z = Draws(0, "generator", 0, range(2), 4, CPU).normal(8)
    expected = 0.002 * stage.generator.mapping(z).detach().mean(dim=0)
    stage.step(batch(), Progress())
    torch.testing.assert_close(stage.generator.mapping.w_avg, expected)


@pytest.mark.parametrize("changes", [{}, {"augment": "ada", "ada_interval": 1, "ada_target": 1.0, "ada_kimg": 0.05}])
def test_parts_add_up_to_the_batch(changes: dict[str, Any]) -> None:
    """Reference: the batch at once, for two steps of all phases but path length; D never sees more than a part and its fakes."""
    changes |= {"batch": 12, "r1_every": 1, "pl_weight": 0.0}
    whole, parts = build(**changes), build(accumulate=2, **changes)
    seen: list[int] = []
    parts.discriminator.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    for step in range(2):
        expected, found = (stage.step(batch(step, 12), Progress(12 * step)) for stage in (whole, parts))
        assert numbers(found) == pytest.approx(numbers(expected), rel=1e-3, abs=1e-5)
    assert set(seen) == {8, 16, 4}, "parts of 8 and 4 pairs, with as many fakes in D's main phase"
    ours, theirs = (torch.cat([p.flatten() for p in stage.discriminator.parameters()]) for stage in (parts, whole))
    assert (ours - theirs).norm() < 1e-3 * (theirs - torch.cat([p.flatten() for p in build(**changes).discriminator.parameters()])).norm()


def test_path_lengths_in_parts() -> None:
    """Reference: the batch at once. The first penalty and mean do not depend on the parts; gradients differ by what means are worth."""
    whole, parts = build(batch=16, pl_every=1), build(batch=16, pl_every=1, accumulate=2)
    expected, found = (stage._step_path_length(Progress()) for stage in (whole, parts))
    assert found["pl_mean"].item() == pytest.approx(expected["pl_mean"].item(), rel=1e-5)
    assert found["pl_penalty"].item() == pytest.approx(expected["pl_penalty"].item(), rel=0.01)
    ours, theirs = ([p.grad for p in stage.generator.parameters() if p.grad is not None] for stage in (parts, whole))
    difference = sum(float((a - b).square().sum()) for a, b in zip(ours, theirs, strict=True)) ** 0.5
    assert difference < 0.05 * sum(float(b.square().sum()) for b in theirs) ** 0.5


def test_a_step_in_fp16() -> None:
    """Reference: float32. All phases take their step, with gradients as large as there, to the bits that fp16 has."""
    norms = []
    for precision in ("fp32", "fp16"):
        network = dataclasses.replace(RUN.network, channel_base=512, channel_max=32, precision=precision)  # type: ignore[arg-type]
        run = dataclasses.replace(RUN, resolution=32, network=network)
        frames = torch.randint(0, 256, (8, 2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        stats = PairStage(run, Ranks(2, 4), CPU).step(frames, Progress())
        norms.append({name: float(value) for name, value in stats.items() if name.endswith("_grad_norm")})
    assert norms[1] == pytest.approx(norms[0], rel=0.02) and norms[1] != norms[0]
    assert set(norms[1]) == {f"{phase}_grad_norm" for phase in ("g", "path_length", "d", "r1")}


def test_more_parts_than_shards_are_the_users_mistake() -> None:
    with pytest.raises(InputError, match="3 parts of a worker's 2 logical shards"):
        build(accumulate=3)


def test_path_length_mean() -> None:
    """It starts at 0 and moves 0.01 of the way to the mean length: positive and growing at first."""
    stage = build(pl_every=1)
    means = [stage.step(batch(), Progress(8 * step))["pl_mean"].item() for step in range(3)]
    assert 0 < means[0] < means[1] < means[2]


def test_mixed_ws() -> None:
    """Reference: the definition: layers below the cutoff take the first code, the others the second."""
    stage = build()
    z, z_mix = torch.randn(3, 8), torch.randn(3, 8)
    w, w_mix = stage.generator.mapping(z), stage.generator.mapping(z_mix)
    ws = mixed_ws(stage.generator, z, z_mix, torch.tensor([1, 3, 4]))
    assert ws.shape == (3, 4, 8)
    for n, cutoff in enumerate((1, 3, 4)):
        for layer in range(4):
            torch.testing.assert_close(ws[n, layer], w[n] if layer < cutoff else w_mix[n])


@pytest.mark.parametrize("chance", [0.0, 0.9, 1.0])
def test_style_mixing(chance: float) -> None:
    """Reference: StyleGAN2: with probability 0.9 a cutoff uniform over layers 1 to num_ws - 1, else none."""
    stage = build(style_mixing=chance)
    cutoffs = stage._latents(Draws(0, "test", 0, range(1), 6000, CPU))[2]
    share = [float((cutoffs == cutoff).float().mean()) for cutoff in range(6)]
    assert share == pytest.approx([0, chance / 3, chance / 3, chance / 3, 1 - chance, 0], abs=0.03)


def test_the_discriminator_sees_logical_shards_as_groups() -> None:
    """Real and generated samples never share a minibatch-stddev group: moving a group does not change another group's logits."""
    stage = build()
    real, fake = to_range(batch(1)), to_range(batch(2))
    _, real_logits, fake_logits = stage._d_main(stage.ranks, real, fake)
    for part in (slice(0, 4), slice(4, 8)):
        torch.testing.assert_close(real_logits[part], stage.discriminator(real[part], 4).detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fake_logits[part], stage.discriminator(fake[part], 4).detach(), rtol=1e-4, atol=1e-5)


def test_to_range() -> None:
    frames = to_range(torch.tensor([0, 51, 255], dtype=torch.uint8))
    torch.testing.assert_close(frames, torch.tensor([-1.0, -0.6, 1.0]))


def test_the_same_seed_gives_the_same_networks_and_another_seed_others() -> None:
    torch.manual_seed(5)
    first = build().state_dict()
    second = build().state_dict()
    other = PairStage(dataclasses.replace(RUN, seed=1), Ranks(2, 4), CPU).state_dict()
    assert equal(first, second)
    assert not torch.equal(first["generator"]["synthesis.blocks.0.const"], other["generator"]["synthesis.blocks.0.const"])


def test_training_learns_the_mean_colour() -> None:
    """A check of signs: on frames of one colour, 40 steps bring generated frames nearer to it than the first ones were."""
    stage = build(lr=0.01, r1_gamma=0.1)
    real = torch.full((8, 2, 3, 8, 8), 230, dtype=torch.uint8)
    z = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))

    def distance() -> float:
        with torch.no_grad():
            return float((stage.generator(z).mean(dim=(0, 3, 4)) - to_range(real)[0, 0, 0, 0, 0]).square().mean())

    before = distance()
    for step in range(40):
        stage.step(real, Progress(8 * step))
    assert distance() < 0.5 * before
