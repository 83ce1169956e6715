"""Steps that are left out because a loss or gradient is not finite, and rollbacks."""

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mvgan.config import Run
from mvgan.storage.commit import Commits
from mvgan.storage.uri import LocalStore
from mvgan.train.adam import Adam
from mvgan.train.exposed import EXPOSED
from mvgan.train.guard import SKIPPED, Diverged, Guard, NonFinite, Rollbacks
from mvgan.train.pairs import PairStage
from mvgan.train.ranks import Ranks
from mvgan.train.state import Progress
from tests.unit.train import test_pairs as pairs
from tests.unit.train import test_video as video


CPU = torch.device("cpu")


def guarded(max_skipped: int = 2) -> tuple[Guard, nn.Parameter, Adam]:
    weight = nn.Parameter(torch.ones(3))
    return Guard("pairs", Ranks(2, 4), max_skipped, CPU), weight, Adam([weight], 0.1, (0.9, 0.999))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_is_left_out(bad: float, where: str) -> None:
    """Neither weights nor Adam's moments change, and the next good step is as if it had never been."""
    guard, weight, optimizer = guarded()
    assert guard.descend("D", optimizer, [weight.square().sum()])
    before, moments = weight.detach().clone(), copy.deepcopy(optimizer.state_dict())
    hook = weight.register_hook(lambda grad: grad.index_fill(0, torch.tensor(1), bad)) if where == "gradient" else None
    assert not guard.descend("D", optimizer, [weight.sum() if hook else weight.sum() + bad])
    assert torch.equal(weight, before) and pairs.equal(optimizer.state_dict(), moments)
    assert [guard.measures()[SKIPPED].item() for _ in range(2)] == [1, 0]
    if hook:
        hook.remove()
    assert guard.descend("D", optimizer, [weight.square().sum()]) and not torch.equal(weight, before)


@pytest.mark.parametrize(("size", "taken"), [(1e17, True), (1e19, False), (1e37, False)])
def test_gradients_whose_squares_overflow_are_left_out(size: float, taken: bool) -> None:
    """They would make Adam's second moment infinite, and with it all later steps zero."""
    guard, weight, optimizer = guarded()
    assert guard.descend("D", optimizer, [(weight * size).sum()]) == taken
    before = weight.detach().clone()
    for _ in range(3):
        guard.descend("D", optimizer, [weight.sum()])
    assert all(value.isfinite().all() for value in optimizer.state[weight].values())
    assert not torch.equal(weight, before)


def test_exposed_communication_is_told_for_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 0.6 s over three steps; one process waits for nobody."""
    guard = Guard("pairs", Ranks(2, 4, 0, 2), 5, CPU)
    monkeypatch.setattr(guard.ranks.exposed, "take", lambda: 0.6)
    for _ in range(3):
        guard.measures()
    assert guard.look(24) == {EXPOSED: pytest.approx(0.2)}
    assert Guard("pairs", Ranks(2, 4), 5, CPU).look(24) == {}


def test_gradient_norms() -> None:
    """Reference: the gradient by hand; that of a phase that is left out is NaN, and one that was told already is not there."""
    guard, weight, optimizer = guarded()
    guard.descend("path length", optimizer, [(weight * torch.tensor([3.0, 4.0, 12.0])).sum()])
    guard.descend("D", optimizer, [weight.sum() * float("nan")])
    found = guard.measures()
    assert found.pop("d_grad_norm").isnan() and found == {"path_length_grad_norm": 13.0, SKIPPED: 1}
    guard.descend("G", optimizer, [(weight * 1e17).sum()])
    assert set(guard.measures()) == {"g_grad_norm", SKIPPED} and set(guard.measures()) == {SKIPPED}
    guard.descend("G", optimizer, [(weight * torch.tensor([9e17, -9e17, 1.0])).sum()])
    assert torch.isfinite(guard.measures()["g_grad_norm"])


def test_seconds_of_a_phase_are_those_of_its_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, by a clock of our own. A phase that steps twice in a step counts twice; means are over the steps in which it is due."""
    guard, weight, optimizer = guarded()
    now = [0.0]
    monkeypatch.setattr("mvgan.train.guard.moment", lambda device: now[0])

    def losses(value: float) -> Iterator[torch.Tensor]:
        now[0] += 0.1
        yield weight.sum() * value

    for _ in range(2):
        guard.descend("latent", optimizer, losses(1.0))
        guard.descend("latent", optimizer, losses(2.0))
        guard.measures()
    guard.descend("path length", optimizer, losses(float("nan")))
    found = guard.look(0)
    assert guard.look(0) == {}
    assert found["latent_phase_s"] == pytest.approx(0.2) and found["path_length_phase_s"] == pytest.approx(0.1)


def test_too_many_in_a_row_end_the_attempt() -> None:
    """Counted for each phase, over all looks; a good step ends a row, but not one that was too long since the last look."""
    guard, weight, optimizer = guarded(max_skipped=2)

    def step(phase: str, good: bool) -> bool:
        return bool(guard.descend(phase, optimizer, [weight.sum() * (1 if good else float("nan"))]))

    for _ in range(3):
        assert not step("R1", False) and not step("R1", False) and step("R1", True)
        guard.look(20)
    assert not step("R1", False) and not step("D", False) and not step("R1", False) and not step("D", False)
    guard.look(30)
    assert step("D", True) and not step("R1", False) and step("R1", True)
    with pytest.raises(NonFinite, match="pairs: loss or gradients of R1 not finite up to 40 pairs, 3 times in a row"):
        guard.look(40)


def test_a_look_says_what_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    guard, weight, optimizer = guarded()
    for value in (float("nan"), 1.0, float("inf"), float("nan"), 1.0):
        guard.descend("R1", optimizer, [weight.sum() * value])
    guard.look(40)
    assert caplog.messages == [
        "pairs: loss or gradients of R1 not finite up to 40 pairs: 3 of its steps were left out (2 in a row, at most 2)"
    ]
    guard.look(80)
    assert len(caplog.messages) == 1


def test_no_tolerance() -> None:
    guard, weight, optimizer = guarded(max_skipped=0)
    guard.descend("D", optimizer, [weight.sum() / 0])
    with pytest.raises(NonFinite):
        guard.look(8)


def poison(stage: Any, phase: str) -> Any:
    """Make every later gradient of one phase NaN: its module runs in front of a hook on its loss."""
    owner = stage._d_phases if phase in ("d_v", "d_r") else stage
    key = {"G": "_g_main", "path length": "_path_length", "D": "_d_main", "R1": "_r1", "latent": "_g_phase"}.get(phase, phase)
    module = owner[key] if isinstance(owner, dict) else getattr(owner, key)

    def bad(_: Any, __: Any, output: Any) -> Any:
        loss, *rest = output if isinstance(output, tuple) else (output,)
        # The values stay: it is the gradient that goes wrong.
        loss = loss + 0 * loss
        loss.register_hook(lambda grad: grad * float("nan"))
        return (loss, *rest) if isinstance(output, tuple) else loss

    return module.register_forward_hook(bad)


NETS = {
    "G": ({"generator", "g_optimizer"}, {"discriminator", "d_optimizer"}),
    "path length": ({"pl_mean"}, {"generator", "discriminator"}),
    "D": (set(), {"generator", "discriminator"}),
    "R1": (set(), {"generator", "discriminator"}),
}
"""What a failing phase leaves as it was, if no other phase changes it too, and what is trained all the same."""


@pytest.mark.parametrize("phase", NETS)
def test_each_phase_of_stage_1_is_left_out_alone(phase: str) -> None:
    """Reference: what else trains. Nothing is poisoned for the next step: EMA, w_avg and path-length mean stay finite."""
    stage = pairs.build(r1_every=1, pl_every=2, pl_weight=0.0 if phase == "G" else 2.0)
    stage.step(pairs.batch(0), Progress(0))
    before = copy.deepcopy(stage.state_dict())
    hook = poison(stage, phase)
    stats = stage.step(pairs.batch(8), Progress(16))
    after = stage.state_dict()
    still, moved = NETS[phase]
    assert stats["skipped_steps"] == 1
    key = {"G": "g_loss", "path length": "pl_penalty", "D": "d_loss", "R1": "r1"}[phase]
    signs = {"real_sign", "fake_sign"} if phase == "D" else set()
    assert {name for name, value in stats.items() if value.isnan()} == {key, f"{phase.lower().replace(' ', '_')}_grad_norm", *signs}
    for name in still:
        assert pairs.equal(after[name], before[name]), name
    for name in moved:
        assert not pairs.equal(after[name], before[name]), name
    assert all(tensor.isfinite().all() for part in after.values() for tensor in tensors(part))
    hook.remove()
    assert stage.step(pairs.batch(16), Progress(32))["skipped_steps"] == 0


@pytest.mark.parametrize("phase", ["d_v", "d_r", "latent"])
def test_each_phase_of_stage_3_is_left_out_alone(phase: str) -> None:
    stage = video.build(g_steps=2)
    batch = next(video.batches(0))
    stage.step(batch, Progress())
    before = copy.deepcopy(stage.state_dict())
    hook = poison(stage, phase)
    stats = stage.step(batch, Progress(8))
    assert stats["skipped_steps"] == (2 if phase == "latent" else 1)
    assert {name for name, value in stats.items() if value.isnan()} == {
        "g_loss" if phase == "latent" else f"{phase}_loss", f"{phase}_grad_norm"
    }  # fmt: skip
    for name, part in stage.state_dict().items():
        assert pairs.equal(part, before[name]) == (name == phase), name
    hook.remove()
    assert stage.step(batch, Progress(16))["skipped_steps"] == 0


def tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    if isinstance(state, dict | list | tuple):
        return [tensor for part in (state.values() if isinstance(state, dict) else state) for tensor in tensors(part)]
    return []


def test_the_setting_reaches_the_stages() -> None:
    run = dataclasses.replace(pairs.RUN, max_skipped=7)
    assert PairStage(run, Ranks(2, 4), pairs.CPU).guard.max_skipped == 7
    assert video.build().guard.max_skipped == Run().max_skipped == 5


def test_one_rollback_for_each_commit(tmp_path: Path) -> None:
    """The same commit again is no passing fault; a newer one is another place. The line names it and what to lower."""
    commits = Commits(LocalStore(tmp_path), "pairs")
    epoch = commits.claim({})
    rollbacks = Rollbacks(commits, "pairs")
    error = NonFinite("pairs: loss or gradients of D not finite after 40 pairs, 6 times in a row")
    rollbacks.answer(error)
    commits.write(32, epoch, {"state.pt": b"x"}, {"complete": False})
    rollbacks.answer(error)
    with pytest.raises(Diverged) as raised:
        rollbacks.answer(error)
    words = str(raised.value)
    assert words.startswith(f"{error}, again after going on from the commit at 32 ({tmp_path}/pairs/commits/000000000032-00001.json)")
    assert "--pairs.lr" in words and "--pairs.r1-gamma" in words and "--network.precision fp32" in words and "\n" not in words


def test_a_stage_without_a_commit_is_started_anew_once(tmp_path: Path) -> None:
    commits = Commits(LocalStore(tmp_path), "video")
    rollbacks = Rollbacks(commits, "video")
    rollbacks.answer(NonFinite("x"))
    with pytest.raises(Diverged, match=r"the start, as there is no commit; lower --video.lr or --video.gp-weight"):
        rollbacks.answer(NonFinite("x"))
