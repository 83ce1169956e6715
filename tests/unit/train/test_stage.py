"""The loop: when it ends, when hooks are due, and what it tells them."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from mvgan.train import stage as train_stage
from mvgan.train.stage import DATA_WAIT, Plan, fit
from mvgan.train.state import Progress


class CountingStage:
    """Notes what it is given."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, int]] = []

    def step(self, batch: Tensor, progress: Progress) -> dict[str, Tensor]:
        self.steps.append((batch.item(), progress.images))
        return {"loss": batch}

    def look(self, images: int) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Recorder:
    """A hook that notes its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def start(self, stage: Any, progress: Progress) -> None:
        self.calls.append(("start", progress.images))

    def after_step(self, stage: Any, progress: Progress, stats: dict[str, Tensor]) -> None:
        self.calls.append((stats["loss"].item(), progress.images))


def test_fit() -> None:
    """Batches in order, each step told the images before it, hooks those after it; the last step may overshoot."""
    stage, hook = CountingStage(), Recorder()
    end = fit(stage, map(torch.tensor, itertools.count(10)), Progress(), Plan(total=10, batch=4, tick=4, commit=4), [hook])
    assert stage.steps == [(10, 0), (11, 4), (12, 8)]
    assert hook.calls == [("start", 0), (10, 4), (11, 8), (12, 12)]
    assert end.images == 12 and end.elapsed_s >= 0


def test_the_wait_for_data_is_a_share_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a clock of its own: a batch takes 3 s and a step 1 s."""
    clock, shares = [0.0], []
    monkeypatch.setattr(train_stage.time, "monotonic", lambda: clock[0])

    def batches() -> Iterator[Tensor]:
        for number in itertools.count():
            clock[0] += 3
            yield torch.tensor(number)

    class Slow(CountingStage):
        def step(self, batch: Tensor, progress: Progress) -> dict[str, Tensor]:
            clock[0] += 1
            return super().step(batch, progress)

    class Shares(Recorder):
        def after_step(self, stage: Any, progress: Progress, stats: dict[str, Tensor]) -> None:
            shares.append(stats[DATA_WAIT].item())

    fit(Slow(), batches(), Progress(), Plan(total=8, batch=4, tick=4, commit=4), [Shares()])
    assert shares == [0.75, 0.75]


def test_fit_goes_on() -> None:
    """From images and seconds of an earlier process; at the end nothing is done."""
    stage, hook = CountingStage(), Recorder()
    plan = Plan(total=12, batch=4, tick=4, commit=4)
    end = fit(stage, map(torch.tensor, itertools.count()), Progress(8, 100.0), plan, [hook])
    assert stage.steps == [(0, 8)] and hook.calls == [("start", 8), (0, 12)]
    assert 100 <= end.elapsed_s < 110
    assert fit(stage, iter(()), end, plan, []).images == 12


def test_fit_does_not_swallow_the_end_of_its_batches() -> None:
    """A stream that ends early must not look like the end of training."""
    with pytest.raises(RuntimeError, match="the data ended after"):
        fit(CountingStage(), iter([torch.tensor(0)]), Progress(), Plan(total=12, batch=4, tick=4, commit=4), [])


@pytest.mark.parametrize(("total", "batch", "every"), [(100, 4, 12), (100, 4, 10), (101, 8, 7), (64, 16, 16), (10, 4, 100), (50, 4, 1)])
def test_due(total: int, batch: int, every: int) -> None:
    """Reference: enumeration: due after the first step at or past each multiple, and at the end."""
    plan = Plan(total, batch, every, every)
    steps = range(batch, plan.end + 1, batch)
    expected = {next(s for s in steps if s >= m) for m in range(every, plan.end + 1, every)} | {plan.end}
    assert {s for s in steps if plan.due(Progress(s), every)} == expected
    assert plan.end >= total > plan.end - batch


@pytest.mark.parametrize(("total", "batch", "evaluations"), [(32000, 16, 4), (3200, 16, 2), (1000, 16, 3), (64, 16, 100), (100, 32, 1)])
def test_evaluations(total: int, batch: int, evaluations: int) -> None:
    """At the start, at equal distances, at the end: not more often than asked, or after every step if more are asked than steps."""
    plan = Plan(total, batch, 1, 1, evaluations)
    due = [s for s in range(0, plan.end + 1, batch) if plan.evaluation_due(Progress(s))]
    assert due[0] == 0 and due[-1] == plan.end
    assert len(due) - 1 == min(evaluations, plan.end // batch)


def test_no_evaluations() -> None:
    plan = Plan(32, 16, 1, 1, 0)
    assert not any(plan.evaluation_due(Progress(s)) for s in (0, 16, 32))
