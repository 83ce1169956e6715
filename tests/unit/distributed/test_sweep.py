"""What is said and noted of a sweep's runs as Tune ends them, and what becomes of errors: without Ray."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mvgan.config import InputError, Resources
from mvgan.distributed import sweep as module
from mvgan.distributed.sweep import ERROR_LOG, Phase, _measured, _Teller, _train
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import Unreachable
from mvgan.sweep import Sweep, open_sweep


@pytest.fixture
def phase(tiny_run: RunFolder, tmp_path: Path) -> Phase:
    """Two trials, the first of which is finished."""
    folder = open_sweep(str(tmp_path / "s"), Sweep(tiny_run.run, {"num_codes": (2, 1)}, tiny_run.data))
    trials = {trial.key: trial for trial in folder.sweep.trials()}
    done, _ = trials
    shutil.copytree(tiny_run.uri, folder.trial_uri(trials[done]))
    return Phase("trial", "video", folder, trials, Resources(), halving=2)


def complete(teller: _Teller, key: str, result: dict[str, Any]) -> None:
    teller.on_trial_complete(0, [], SimpleNamespace(config={"key": key}, last_result=result))


def test_what_tune_stopped_is_noted_and_what_ended_with_nothing_failed(phase: Phase, capsys: pytest.CaptureFixture[str]) -> None:
    teller, (_, other) = _Teller(phase, 2), phase.trials
    complete(teller, other, {"ended": True, "error": None})
    assert teller.failed == {other: "it has ended without a result; the same command goes on from its last commit"}
    assert not phase.stopped(other)
    complete(teller, other, {"ended": False, "clips": 4, "frechet": 3.0})
    assert phase.stopped(other) and "stopped early, Frechet distance 3" in capsys.readouterr().out
    teller = _Teller(phase, 1)
    complete(teller, other, {"ended": True, "error": None, "clips": 4, "frechet": 3.0})  # told again, and not trained
    assert teller.failed == {}


def test_a_finished_trial_is_done_even_if_its_replay_is_stopped(phase: Phase, capsys: pytest.CaptureFixture[str]) -> None:
    teller, (done, _) = _Teller(phase, 1), phase.trials
    complete(teller, done, {"ended": False, "clips": 4, "frechet": 9.0})
    assert " done, Frechet distance 9" in capsys.readouterr().out
    assert not phase.folder.stopped(phase.trials[done]) and teller.failed == {}


def test_errors_become_lines_even_where_the_log_cannot_be_written(phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, other) = phase.trials
    run = phase.open(other)

    def fail(error: Exception) -> list[str]:
        outcome: list[str] = []

        def train(self: Phase, run: RunFolder) -> None:
            raise error

        monkeypatch.setattr(Phase, "train", train)
        _train(phase, run, outcome)
        return outcome

    assert fail(InputError("the user's mistake")) == ["the user's mistake"]
    assert fail(ZeroDivisionError("unforeseen")) == [f"ZeroDivisionError; see {run.uri}/{ERROR_LOG}"]
    assert b"unforeseen" in run.store.read(ERROR_LOG)

    def refuse(*_: object) -> None:
        raise Unreachable("no storage")

    outcome: list[str] = []
    monkeypatch.setattr(type(run.store), "write", refuse)
    with pytest.raises(Unreachable):
        _train(phase, run, outcome)
    assert outcome == [f"ZeroDivisionError; see {run.uri}/{ERROR_LOG}"]


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
