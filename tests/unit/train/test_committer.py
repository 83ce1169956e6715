"""Commits beside training: what they hold, when training waits, and what becomes of a storage that refuses them."""

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mvgan.storage import commit as commit_module
from mvgan.storage.commit import Commits, Conflict, Superseded
from mvgan.storage.uri import LocalStore
from mvgan.train import committer as committer_module
from mvgan.train.committer import Committer, MissedCommits, measured_commits
from mvgan.train.guard import SKIPPED, NonFinite
from mvgan.train.outbox import Outbox
from mvgan.train.stage import Plan, fit
from mvgan.train.state import Progress, from_bytes


PLAN = Plan(total=24, batch=4, tick=4, commit=8)


class Counter:
    """A stage whose one weight counts its steps in place, as optimizers change weights in place."""

    def __init__(self) -> None:
        self.weight = torch.zeros(1000)

    def step(self, batch: Tensor, progress: Progress) -> dict[str, Tensor]:
        self.weight += 1
        return {SKIPPED: batch}

    def look(self, images: int) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"net": {"weight": self.weight}, "moments": [self.weight], "steps": int(self.weight[0])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weight = state["net"]["weight"]


class FaultyStore(LocalStore):
    """A local folder whose writes below `data/` are at the mercy of `fault`; copies share it."""

    fault: Callable[[str], None] = staticmethod(lambda path: None)

    def write(self, path: str, data: bytes) -> None:
        if path.startswith("data/"):
            type(self).fault(path)
        super().write(path, data)

    def at(self, sub: str) -> "FaultyStore":
        return FaultyStore(self._file(sub))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultyStore:
    monkeypatch.setattr(FaultyStore, "fault", staticmethod(lambda path: None))
    monkeypatch.setattr(committer_module, "RETRY_S", 0.01)
    return FaultyStore(tmp_path)


def refuse(store: FaultyStore, *at: int, error: Exception | None = None) -> None:
    """Fail the data of the commits at these numbers of images, once for each time they are named."""
    left = list(at)

    def fault(path: str) -> None:
        images = int(path.removeprefix("data/").split("-")[0])
        if images in left:
            left.remove(images)
            raise error or OSError(28, "No space left on device")

    type(store).fault = staticmethod(fault)


@dataclasses.dataclass
class Training:
    """A stage, its committer, and what was said."""

    store: FaultyStore
    max_missed: int = 3
    patience_s: float = 10
    plan: Plan = PLAN
    said: list[str] = dataclasses.field(default_factory=list)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    stage: Counter = dataclasses.field(default_factory=Counter)
    stop: Callable[[], str] = lambda: ""

    def __post_init__(self) -> None:
        self.commits = Commits(self.store, "pairs")
        self.outbox = Outbox(self.store, self.said.append)
        self.committer = Committer(
            "pairs", self.commits, self.commits.claim({}), self.plan, self.history, self.outbox, self.said.append, self.max_missed, None,
            self.patience_s, self.stop,
        )  # fmt: skip

    def run(self, skipped: float = 0.0, before: Callable[[int], None] = lambda step: None) -> Progress:
        """Train to the end, calling `before` each step with its number; then close, whatever came."""

        def batches() -> Iterator[Tensor]:
            for step in range(100):
                before(step)
                yield torch.tensor(skipped)

        try:
            return fit(self.stage, batches(), Progress(), self.plan, [self.committer])
        finally:
            self.committer.close()
            self.outbox.leave(10)

    def steps_at(self, images: int) -> set[int]:
        """Steps that the commit at `images` holds, by each of its parts."""
        (commit,) = [commit for commit in self.commits.records() if commit.images == images]
        state = from_bytes(self.commits.read(commit, "state.pt"))
        assert state["net"]["weight"].unique().numel() == 1
        return {int(state["net"]["weight"][0]), int(state["moments"][0][0]), state["steps"]}


def test_training_goes_on_while_a_commit_is_written(store: FaultyStore) -> None:
    """The storage holds the first commit back for the two steps until the next: it has the state of when it was due."""
    gate, entered, reached = threading.Event(), threading.Event(), []

    def fault(path: str) -> None:
        if path.startswith("data/000000000008"):
            entered.set()
            assert gate.wait(10)

    def before(step: int) -> None:
        if step == 3:  # commit 8 fell due after step 2; step 3 was made without it
            assert entered.wait(10)
            reached.append(training.commits.newest())
            gate.set()

    type(store).fault = staticmethod(fault)
    training = Training(store)
    training.run(before=before)
    assert reached == [None]
    assert training.steps_at(16) == {4} and training.steps_at(24) == {6}
    assert [commit.images for commit in training.commits.records()] == [24, 16], "the newest two are kept"


def test_the_state_is_that_of_the_moment(store: FaultyStore) -> None:
    """Every commit holds the steps made when it fell due, though the weights went on in place before it was serialised."""
    gate = threading.Event()
    original = committer_module.to_bytes

    def late(state: dict[str, Any]) -> bytes:
        if state["steps"] == 2:
            assert gate.wait(10)
        return original(state)

    training = Training(store, plan=dataclasses.replace(PLAN, total=16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(committer_module, "to_bytes", late)
        training.run(before=lambda step: gate.set() if step == 3 else None)
    assert training.steps_at(8) == {2} and training.steps_at(16) == {4}


def test_a_due_commit_waits_for_the_one_before(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says for how long, in the log and in metrics, and both are made, in order."""
    monkeypatch.setattr(committer_module, "SAY_S", 0.5)

    def fault(path: str) -> None:
        if path.startswith("data/000000000008"):
            threading.Event().wait(0.5)

    type(store).fault = staticmethod(fault)
    training = Training(store)
    training.run()
    (line,) = [line for line in training.said if "commit at 16 waited" in line]
    assert float(line.split("waited ")[1].split(" s")[0]) > 0.5 and "interval of commits is too short" in line
    figures = training.committer.figures()
    assert figures["commit_wait_s"] > 0.5 and figures["missed_commits"] == 0 and figures["commit_write_s"] > 0
    assert [commit.images for commit in training.commits.records()] == [24, 16]
    assert training.committer.figures() == {"commit_wait_s": 0.0, "missed_commits": 0.0}, "figures count since the last call"


def test_history_is_part_of_the_commit(store: FaultyStore) -> None:
    """As it was when the commit fell due, and its measure as well."""
    training = Training(store)

    def before(step: int) -> None:
        training.history.append({"images": 4 * (step + 1), "frechet": 10.0 - step})

    training.run(before=before)
    commit = training.commits.newest()
    assert commit is not None and commit.meta["frechet"] == 5.0 and commit.meta["complete"]
    older = training.commits.records()[1]
    assert json.loads(training.commits.read(older, "history.json")) == training.history[:4] and not older.meta["complete"]


def test_the_best_commit_is_kept(store: FaultyStore) -> None:
    training = Training(store)
    training.run(before=lambda step: training.history.append({"images": 4 * (step + 1), "frechet": 1.0 + step}))
    assert [commit.images for commit in training.commits.records()] == [24, 16, 8]
    assert [commit.images for commit in measured_commits(training.commits)] == [8, 16, 24]


def test_a_missed_commit_is_an_alarm(store: FaultyStore) -> None:
    """Training goes on; the line says why and what the last good commit is; the next success ends the row."""
    refuse(store, 12, 16, 24)
    training = Training(store, plan=Plan(total=32, batch=4, tick=4, commit=4))
    training.run()
    alarms = [line for line in training.said if "ALARM" in line]
    assert [line.split("at ")[1].split(" was missed (")[0] for line in alarms] == ["12", "16", "24"]
    assert ["(1 in a row" in line for line in alarms] == [True, False, True]
    assert all("No space left on device" in line and "\n" not in line for line in alarms)
    assert f"the commit at 8 ({store.uri}/pairs/commits/000000000008-00001.json)" in alarms[0]
    assert training.committer.figures()["missed_commits"] == 3
    assert [commit.images for commit in training.commits.records()] == [32, 28]
    assert not [path for path in store.list("pairs/data/") if "000000000012" in path], "no half commit is left in the way"


@pytest.mark.parametrize("limit", [1, 3])
def test_missed_commits_in_a_row_end_the_run(store: FaultyStore, limit: int) -> None:
    refuse(store, *range(12, 24, 4))
    training = Training(store, max_missed=limit, plan=Plan(total=400, batch=4, tick=4, commit=4))
    with pytest.raises(MissedCommits) as raised:
        training.run()
    words = str(raised.value)
    assert f"{limit} commits in a row could not be written: [Errno 28] No space left on device" in words and "\n" not in words
    assert f"the commit at 8 ({store.uri}/pairs/commits/000000000008-00001.json)" in words
    assert training.stage.weight[0] <= 3 + limit + 1, "training did not stop"


def test_a_run_without_any_commit_says_so(store: FaultyStore) -> None:
    refuse(store, 8, 16, 24)
    with pytest.raises(MissedCommits, match="goes on from the start, as there is no commit"):
        Training(store, max_missed=2).run()


def test_the_last_commit_is_tried_again(store: FaultyStore) -> None:
    refuse(store, 24, 24)
    training = Training(store)
    training.run()
    newest = training.commits.newest()
    assert newest is not None and newest.images == 24
    assert len([line for line in training.said if "tried again" in line]) == 2


def test_a_last_commit_that_cannot_be_made_is_an_error(store: FaultyStore) -> None:
    refuse(store, 24, 24, 24)
    training = Training(store)
    with pytest.raises(MissedCommits, match=r"last commit could not be written in 3 tries.*No space.*the commit at 16 "):
        training.run()


def test_a_last_commit_whose_answer_was_lost_is_found(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record was made, then the connection broke; the second try meets it, and takes it for its own by its content."""
    create, lost = FaultyStore.create, []

    def broken(self: FaultyStore, path: str, data: bytes) -> bool:
        made = create(self, path, data)
        if path.startswith("commits/000000000024") and not lost:
            lost.append(path)
            raise ConnectionResetError("reset by peer")
        return made

    monkeypatch.setattr(FaultyStore, "create", broken)
    training = Training(store)
    training.run()
    newest = training.commits.newest()
    assert lost and newest is not None and newest.images == 24 and training.committer.last == newest


def test_another_writer_of_the_same_epoch_is_a_conflict(store: FaultyStore) -> None:
    """Not the same content: nobody may take that for its own commit."""
    training = Training(store)
    training.commits.write(8, 1, {"state.pt": b"another's", "history.json": b"[]"}, {"complete": False})
    with pytest.raises(Conflict):
        training.run()


def test_a_newer_driver_ends_the_run_at_once(store: FaultyStore) -> None:
    training = Training(store, plan=dataclasses.replace(PLAN, total=4000))

    def before(step: int) -> None:
        if step == 3:
            training.commits.claim({"another": "driver"})

    with pytest.raises(Superseded):
        training.run(before=before)
    assert training.stage.weight[0] < 10


def test_an_error_of_the_thread_is_never_lost(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when training is ended by something else while the commit is being written."""
    started = threading.Event()

    def broken(state: dict[str, Any]) -> bytes:
        started.set()
        raise TypeError("a bug")

    def before(step: int) -> None:
        if step == 2:
            assert started.wait(10)
            raise KeyboardInterrupt

    monkeypatch.setattr(committer_module, "to_bytes", broken)
    with pytest.raises(TypeError, match="a bug") as raised:
        Training(store).run(before=before)
    assert isinstance(raised.value.__context__, KeyboardInterrupt)


def test_what_is_being_written_when_training_is_interrupted_is_written(store: FaultyStore) -> None:
    def before(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    training = Training(store)
    with pytest.raises(KeyboardInterrupt):
        training.run(before=before)
    newest = training.commits.newest()
    assert newest is not None and newest.images == 8


def test_pruning_that_fails_is_no_missed_commit(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Commits, **options: Any) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(commit_module.Commits, "prune", refused)
    training = Training(store)
    training.run()
    assert [commit.images for commit in training.commits.records()] == [24, 16, 8]
    assert [line for line in training.said if "old commits could not be removed: [Errno 13] Permission denied" in line]
    assert not [line for line in training.said if "ALARM" in line]


def test_weights_that_are_not_finite_are_never_committed(store: FaultyStore) -> None:
    training = Training(store)
    training.stage.weight[7] = float("nan")
    with pytest.raises(NonFinite, match="weights or their moments not finite after 8 pairs"):
        training.run()
    assert training.commits.newest() is None


def test_no_commit_of_a_state_whose_last_step_was_left_out(store: FaultyStore) -> None:
    """But for the last one, which ends the run: nothing would be left to go back to."""
    training = Training(store)
    training.run(skipped=1.0)
    assert [commit.images for commit in training.commits.records()] == [24]
    assert [line for line in training.said if "no commit at 16, as steps were just left out" in line]


def test_the_last_commit_is_not_tried_for_longer_than_patience_lasts(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the watchdog would take a worker that waits for its storage for one that hangs."""
    monkeypatch.setattr(committer_module, "RETRY_S", 60.0)
    refuse(store, *[24] * 9)
    with pytest.raises(MissedCommits, match=r"could not be written in 1 tries: .*; the same command goes on from"):
        Training(store, max_missed=9).run()


@pytest.mark.parametrize(("late", "last"), [(8, None), (16, 8), (24, 16)])
def test_a_storage_that_does_not_answer_ends_training_with_the_last_commit_named(store: FaultyStore, late: int, last: int | None) -> None:
    """Nobody waits for the write itself: a call that hangs cannot be ended."""
    gate = threading.Event()

    def fault(path: str) -> None:
        if path.startswith(f"data/{late:012d}"):
            assert gate.wait(60)

    type(store).fault = staticmethod(fault)
    training = Training(store, patience_s=0.3)
    with pytest.raises(MissedCommits) as told:
        training.run()
    place = "the start" if last is None else f"the commit at {last} "
    assert "a commit was not written in time: the storage took more than 0.3 s of one step" in str(told.value)
    assert f"the same command goes on from {place}" in str(told.value)
    gate.set()
