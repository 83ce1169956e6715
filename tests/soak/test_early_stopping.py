"""A sweep that stops early the trials that are behind, on a cluster with room for two at a time."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from mvgan.config import Resources
from mvgan.storage.run import RunFolder
from mvgan.sweep import Sweep, SweepFolder, Trial, open_sweep, outcome
from mvgan.train.hooks import read_metrics
from tests.ray.conftest import ray_session
from tests.ray.test_sweep import trained
from tests.unit.conftest import tiny_run


__all__ = ["ray_session", "tiny_run"]  # fixtures


@pytest.mark.usefixtures("ray_session")
def test_early_stopping_ends_the_worse(tiny_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three trials, then two of them again, one after another, first that which was better after 40 clips: by ASHA's rule (Li et al.)
    the other one is not among the best half there. Trials are long enough not to be over before Tune has stopped them.
    """
    video = dataclasses.replace(tiny_run.run.video, total_clips=480, tick_clips=40, commit_clips=480, evaluations=12)
    base = dataclasses.replace(tiny_run.run, video=video)
    folder = open_sweep(str(tmp_path / "s"), Sweep(base, {"num_codes": (1, 2, 3)}, tiny_run.data))
    resources = Resources(threads=1, start_s=300)
    assert trained(folder, resources, 0, 0) == {}
    trials = folder.sweep.trials()
    assert [outcome(folder, trial).status for trial in trials] == ["done"] * 3
    capsys.readouterr()

    early = {trial.run.num_codes: history(folder, trial)[40] for trial in trials}
    order = (min(early, key=lambda codes: early[codes]), max(early, key=lambda codes: early[codes]))
    shutil.copytree(tmp_path / "s" / "pairs", tmp_path / "early" / "pairs")
    folder = open_sweep(str(tmp_path / "early"), Sweep(base, {"num_codes": order}, tiny_run.data))
    for _ in range(2):  # what was stopped stays so, as long as trials are stopped early
        assert trained(folder, resources, 1, 2) == {}
        better, worse = (outcome(folder, trial) for trial in folder.sweep.trials())
        assert (better.status, better.clips, worse.status) == ("done", 480, "stopped")
        assert 480 not in history(folder, worse.trial)
    assert "pair generators to train" not in capsys.readouterr().out
    assert trained(folder, resources, 5, 0) == {}  # more than there is room for; and without early stopping it goes on
    said = capsys.readouterr().out
    assert "room for 2 of 5 runs at once; others wait" in said and "sweep: 1 of 2 trials to train, 1 at once" in said
    assert outcome(folder, worse.trial).status == "done" and 480 in history(folder, worse.trial)
    assert not folder.stopped(worse.trial)


def history(folder: SweepFolder, trial: Trial) -> dict[int, float]:
    """The Frechet distance of a trial by the clips after which it was taken."""
    records = read_metrics(folder.open_trial(trial).store, "video")
    return {record["images"]: record["frechet"] for record in records if "frechet" in record}
