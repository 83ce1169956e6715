"""What is said and noted of a sweep's runs as Tune ends them, and what becomes of errors: without Ray."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mvgan.config import Ended, InputError, Resources
from mvgan.distributed import sweep as module
from mvgan.distributed.door import Door
from mvgan.distributed.resources import Node, NoRoom
from mvgan.distributed.stop import Stop, Terminated, TimeOver
from mvgan.distributed.sweep import ERROR_LOG, LATE_S, Phase, _due, _Ending, _grams, _measured, _room, _Teller, _train, run_sweep
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import Unreachable
from mvgan.sweep import Sweep, open_sweep
from mvgan.train.committer import Stopped


@pytest.fixture
def phase(tiny_run: RunFolder, tmp_path: Path) -> Phase:
    """Two trials, the first of which is finished."""
    folder = open_sweep(str(tmp_path / "s"), Sweep(tiny_run.run, {"num_codes": (2, 1)}, tiny_run.data))
    trials = {trial.key: trial for trial in folder.sweep.trials()}
    done, _ = trials
    shutil.copytree(tiny_run.uri, folder.trial_uri(trials[done]))
    return Phase("trial", "video", folder, trials, Resources(), halving=2)


class OpenDoor:
    """Lets in whoever comes, and notes it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def wait(self, who: str, say: Any) -> None:
        self.seen.append(("wait", who))

    def placed(self, who: str, room: Any) -> None:
        self.seen.append(("placed", who))

    def left(self, who: str) -> None:
        self.seen.append(("left", who))


def train(phase: Phase, run: RunFolder, outcome: dict[str, str]) -> tuple[list[tuple[str, str]], list[str]]:
    """`_train`, with what it asked of the door, and what was said."""
    door, said = OpenDoor(), list[str]()
    try:
        _train(phase, run, cast(Door, door), said.append, outcome)
    finally:
        assert door.seen[-1] == ("left", run.uri)
    return door.seen, said


def complete(teller: _Teller, key: str, result: dict[str, Any]) -> None:
    teller.on_trial_complete(0, [], SimpleNamespace(config={"key": key}, last_result=result))


def test_what_tune_stopped_is_noted_and_what_ended_with_nothing_failed(phase: Phase, capsys: pytest.CaptureFixture[str]) -> None:
    teller, (_, other) = _Teller(phase, 2, {}), phase.trials
    complete(teller, other, {"ended": True})
    assert teller.failed == {other: "it has ended without a result; the same command goes on from its last commit"}
    assert not phase.stopped(other)
    complete(teller, other, {"ended": False, "clips": 4, "frechet": 3.0})
    assert phase.stopped(other) and "stopped early, Frechet distance 3" in capsys.readouterr().out
    teller = _Teller(phase, 1, {})
    complete(teller, other, {"ended": True, "clips": 4, "frechet": 3.0})  # told again, and not trained
    assert teller.failed == {}


def test_a_finished_trial_is_done_even_if_its_replay_is_stopped(phase: Phase, capsys: pytest.CaptureFixture[str]) -> None:
    teller, (done, _) = _Teller(phase, 1, {}), phase.trials
    complete(teller, done, {"ended": False, "clips": 4, "frechet": 9.0})
    assert " done, Frechet distance 9" in capsys.readouterr().out
    assert not phase.folder.stopped(phase.trials[done]) and teller.failed == {}


def test_what_has_committed_at_a_stop_has_neither_failed_nor_was_it_stopped_early(phase: Phase, capsys: pytest.CaptureFixture[str]) -> None:
    teller, (done, other) = _Teller(phase, 2, {}), phase.trials
    words = "video: stopped by SIGTERM; committed at 12 clips, and the same command goes on from there"
    complete(teller, other, {"ended": True, "stopped": words, "clips": 8, "frechet": 3.0})
    assert capsys.readouterr().out == f"sweep: trial of num_codes 1: {words}\n"
    assert (teller.failed, teller.ended) == ({}, 0) and not phase.folder.stopped(phase.trials[other])
    complete(teller, done, {"ended": True, "stopped": words})  # its last step was done when the stop came
    assert "1/2 trials: trial of num_codes 2 done" in capsys.readouterr().out


class Ending:
    """`_Ending` on a clock, and with a door and a search of notes."""

    def __init__(self, phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.seen = 0.0, list[object]()
        self.stop: Stop | None = None
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        door = SimpleNamespace(stop=self.seen.append)
        search = SimpleNamespace(set_finished=lambda: self.seen.append("no other begins"))
        self.ending = _Ending(phase, lambda: self.stop, cast(Door, door), cast(Any, search))

    def step(self, *statuses: str) -> None:
        trials = [
            SimpleNamespace(status=status, config={"key": key}) for key, status in zip(self.ending.phase.trials, statuses, strict=True)
        ]
        self.ending.on_step_begin(0, trials)


def test_at_a_stop_no_other_run_begins_and_those_at_work_are_waited_for(
    phase: Phase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tune = Ending(phase, monkeypatch)
    tune.step("RUNNING", "PENDING")
    assert tune.seen == []
    tune.stop = Terminated("stopped by SIGTERM; the same command goes on from the last commit")
    for now in (0, phase.resources.hang_s, phase.resources.hang_s + LATE_S):
        tune.now = now
        tune.step("RUNNING", "PENDING")
    assert tune.seen == ["no other begins", tune.stop]
    assert capsys.readouterr().out == "sweep: stopped by SIGTERM; of the trials 1 are at work, which commit and end\n"
    with pytest.raises(Terminated):
        tune.step("TERMINATED", "PENDING")


def test_what_does_not_end_at_a_stop_is_not_waited_for_for_ever(
    phase: Phase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not before its own watchdog would have ended what hangs in it."""
    tune = Ending(phase, monkeypatch)
    tune.stop = TimeOver("the 2 hours of --max-hours are over")
    tune.step("TERMINATED", "RUNNING")
    tune.now = phase.resources.hang_s + LATE_S + 1
    with pytest.raises(TimeOver):
        tune.step("TERMINATED", "RUNNING")
    assert capsys.readouterr().out.endswith(
        "trial of num_codes 1: not ended within 720 s; killed, and what came after the last commit is lost\n"
    )


@pytest.mark.parametrize("stop", [Stopped("committed at 12 clips"), Stop("stopped by SIGTERM")])
def test_a_stop_of_a_training_is_told_as_one(stop: Ended, phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its workers have committed, or there was nothing to commit."""
    (_, other) = phase.trials

    def ended(self: Phase, run: RunFolder, placed: object) -> None:
        raise stop

    monkeypatch.setattr(Phase, "train", ended)
    outcome: dict[str, str] = {}
    train(phase, phase.open(other), outcome)
    assert outcome == {"stopped": str(stop)}


def test_errors_become_lines_even_where_the_log_cannot_be_written(phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, other) = phase.trials
    run = phase.open(other)

    def fail(error: Exception) -> dict[str, str]:
        outcome: dict[str, str] = {}

        def raising(self: Phase, run: RunFolder, placed: object) -> None:
            raise error

        monkeypatch.setattr(Phase, "train", raising)
        train(phase, run, outcome)
        return outcome

    assert fail(InputError("the user's mistake")) == {"error": "the user's mistake"}
    assert fail(ZeroDivisionError("unforeseen")) == {"error": f"ZeroDivisionError; see {run.uri}/{ERROR_LOG}"}
    assert b"unforeseen" in run.store.read(ERROR_LOG)

    def refuse(*_: object) -> None:
        raise Unreachable("no storage")

    outcome: dict[str, str] = {}
    monkeypatch.setattr(type(run.store), "write", refuse)
    with pytest.raises(Unreachable):
        train(phase, run, outcome)
    assert outcome == {"error": f"ZeroDivisionError; see {run.uri}/{ERROR_LOG}"}


def test_a_storage_out_of_reach_ends_no_run(phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise Unreachable("no storage")

    done, _ = phase.trials
    assert [record["images"] for record in _measured(phase.open(done), "video")] == [0, 8, 16]
    monkeypatch.setattr(module, "read_metrics", refuse)
    assert _measured(phase.open(done), "video") == []


def test_without_early_stopping_what_was_stopped_goes_on(phase: Phase) -> None:
    _, other = phase.trials
    phase.folder.stop(phase.trials[other], 4)
    assert phase.stopped(other) and not Phase("trial", "video", phase.folder, phase.trials, Resources()).stopped(other)
    phase.folder.go_on(phase.trials[other])
    assert not phase.folder.stopped(phase.trials[other])


def test_who_loses_the_room_waits_again_and_has_not_failed(phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    _, other = phase.trials
    run, tries = phase.open(other), iter([NoRoom("taken"), NoRoom("taken again"), None])

    def train_third_time(self: Phase, run: RunFolder, placed: Any) -> None:
        if error := next(tries):
            raise error
        placed("its room")

    monkeypatch.setattr(Phase, "train", train_third_time)
    outcome: dict[str, str] = {}
    asked, said = train(phase, run, outcome)
    assert outcome == {} and said == ["waits again: taken", "waits again: taken again"]
    assert [what for what, _ in asked] == [*["wait", "left"] * 2, "wait", "placed", "left"]


def test_why_a_run_waits_is_told(phase: Phase, capsys: pytest.CaptureFixture[str]) -> None:
    teller, (_, other) = _Teller(phase, 1, {}), phase.trials
    teller.on_trial_result(0, [], SimpleNamespace(config={"key": other}), {"waits": "waits for room: none is free", "ended": False})
    assert capsys.readouterr().out == "sweep: trial of num_codes 1 waits for room: none is free\n"
    assert teller.failed == {} and teller.ended == 0


def test_with_early_stopping_those_that_have_ended_go_first(tiny_run: RunFolder, tmp_path: Path) -> None:
    """By their measures others are judged: finished and stopped ones in the order of the grid, then the others."""
    folder = open_sweep(str(tmp_path / "s"), Sweep(tiny_run.run, {"num_codes": (1, 2, 3, 4)}, tiny_run.data))
    trials = {trial.key: trial for trial in folder.sweep.trials()}
    first, done, third, stopped = trials
    shutil.copytree(tiny_run.uri, folder.trial_uri(trials[done]))
    folder.stop(trials[stopped], 4)
    phase = Phase("trial", "video", folder, trials, Resources(), halving=2)
    assert _due(phase) == [done, stopped, first, third]
    assert _due(dataclasses.replace(phase, halving=0)) == [first, third, stopped]


@pytest.mark.parametrize(("gib", "room"), [((8,), 2), ((0.75, 0.4), 1), ((0.4, 0.4, 0.4), 0)])
def test_leaders_take_memory_of_one_node_each(gib: tuple[float, ...], room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a GiB each; of CPUs there are enough for two runs or more."""
    cluster = [Node(4, 0, size * 2**30) for size in gib]
    monkeypatch.setattr(module, "check_room", lambda resources, longest_s: None)
    monkeypatch.setattr(module, "nodes", lambda: (cluster, cluster))
    if room:
        assert _room(Resources()) == room
    else:
        with pytest.raises(InputError, match=r"takes 512 MiB of Ray's memory on one node; no node has as much; start a node with"):
            _room(Resources())


@pytest.mark.parametrize(("at_once", "led", "told"), [(0, 2, False), (2, 2, False), (4, 4, True)])
def test_more_at_once_than_there_is_room_for_wait(
    at_once: int, led: int, told: bool, phase: Phase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where none is given, as many as there is room for."""
    given: list[object] = []
    monkeypatch.setattr(module, "_room", lambda resources: 2)
    monkeypatch.setattr(module, "_phases", lambda *arguments: given.append(arguments[2]))
    run_sweep(phase.folder, Resources(), at_once, 0, {})
    assert given == [led] and ("room for 2 of 4 runs at once; others wait until it has grown" in capsys.readouterr().out) == told


def test_grams_of_a_sweep(phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made once for those that share them: lost room is waited for, what fails fails for all of them, and hours that are over end all."""
    folder = open_sweep(
        f"{phase.folder.store.uri}-grams", Sweep(phase.folder.sweep.base, {"num_codes": (1, 2), "latents": (3, 4)}, "/data")
    )
    trials = folder.sweep.trials()
    answers: list[Exception | None] = [NoRoom("nodes were lost"), None, Ended("out of memory")]

    def factorize(run: RunFolder, resources: Resources) -> None:
        if error := answers.pop(0):
            raise error

    monkeypatch.setattr(module, "export_weights", lambda run, stage: None)
    monkeypatch.setattr(module, "factorize_latents", factorize)
    assert _grams(trials, folder, Resources()) == {trial.key: "out of memory" for trial in trials if trial.run.latents == 4}
    answers.append(TimeOver("the 2 hours of --max-hours are over"))
    with pytest.raises(TimeOver):
        _grams(trials, folder, Resources())
