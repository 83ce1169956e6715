"""A sweep on Ray Tune: stopped and killed as by a user, on a cluster with room for two runs, beside others."""

import csv
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from mvgan.config import Resources
from mvgan.distributed import sweep as module
from mvgan.distributed.resources import nodes, teams
from mvgan.distributed.stop import Terminated, awaited, stoppable
from mvgan.distributed.sweep import Phase, run_sweep
from mvgan.distributed.watchdog import Room
from mvgan.report.frames import frames_outcome
from mvgan.storage.commit import Commits
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import open_store
from mvgan.sweep import Sweep, SweepFolder, open_sweep, outcome
from mvgan.tables import TABLES
from mvgan.train.committer import Stopped
from tests.short_run import ROOT, command, environment
from tests.unit.conftest import tiny_run


__all__ = ["tiny_run"]  # a fixture

LAST_S = 400
"""Time for a sweep to get anywhere, on a machine that has other work."""
SELDOM = ("--pairs.total-kimg", "0.96", "--pairs.commit-kimg", "0.96", "--pairs.evaluations", "1")
GRID = ("--interval", "2", "3", "--num-codes", "2", "4", "--video.eval-clips", "16")


def finished(folder: Path) -> dict[str, int]:
    """The commits of all runs that have exported what they are for, with their times, by which repeated work would show."""
    done = [path.parents[1] for path in (*folder.glob("pairs/*/export/generator.*"), *folder.glob("trials/*/export/latent.*"))]
    return {str(p): p.stat().st_mtime_ns for run in done for p in run.glob("*/commits/*.json")}


def of_trials(commits: dict[str, int]) -> bool:
    """Whether there are commits of a trial among them."""
    return any("/trials/" in path for path in commits)


def table(folder: Path) -> list[dict[str, str]]:
    """The results of a sweep."""
    with open(folder / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


def statuses(folder: Path) -> list[str]:
    """Those of all trials."""
    return [row["status"] for row in table(folder)]


def started(flags: list[str]) -> subprocess.Popen[str]:
    """A driver as a user's."""
    return subprocess.Popen(
        flags, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(driver: subprocess.Popen[str], there: Callable[[], bool]) -> None:
    """Wait while the driver is at work."""
    deadline = time.monotonic() + LAST_S
    while not there():
        assert driver.poll() is None and time.monotonic() < deadline, driver.communicate(timeout=LAST_S)
        time.sleep(0.1)


def test_a_stopped_and_killed_sweep_goes_on_and_repeats_nothing(clips: Path, tmp_path: Path) -> None:
    """SIGTERM while both pair generators train, none of which has a commit due before its end; then SIGKILL once a trial is done and
    others are not. Two pair generators serve four trials.
    """
    flags = command(*GRID, *SELDOM, "--videos", str(clips), "--storage", str(tmp_path), "--name", "s", job="sweep")
    folder = tmp_path / "s"
    first = started(flags)
    wait_for(first, lambda: len(list(folder.glob("pairs/*/pairs/metrics.jsonl"))) == 2)
    first.terminate()
    said, errors = first.communicate(timeout=LAST_S)
    assert first.returncode == 1 and "Traceback" not in errors, said + errors
    assert errors.splitlines()[-1] == "error: stopped by SIGTERM; the same command goes on from the last commit"
    assert (
        statuses(folder) == ["unfinished"] * 4
        and "2 are at work, which commit and end" in said
        and said.splitlines()[-1] == str(folder / "sweep.html")
    )
    told = re.findall(r"^sweep: pair generator of interval (\d): pairs: stopped by SIGTERM; committed at (\d+) pairs, and ", said, re.M)
    newest = {run: Commits(open_store(str(run)), "pairs").newest() for run in (folder / "pairs").iterdir()}
    at = {run: commit.images for run, commit in newest.items() if commit is not None}
    assert len(at) == 2 and all(0 < images < 960 for images in at.values())
    assert sorted(k for k, _ in told) == ["2", "3"] and sorted(int(images) for _, images in told) == sorted(at.values())

    second = started(flags)
    wait_for(second, lambda: of_trials(finished(folder)))
    os.kill(second.pid, signal.SIGKILL)
    second.wait()
    for run, images in at.items():
        assert any(f"pairs: goes on from its commit at {images}" in log.read_text() for log in run.glob("logs/*.log"))
    before = finished(folder)
    assert len(list((folder / "pairs").iterdir())) == 2 and statuses(folder) == ["unfinished"] * 4  # as the stop has left it

    again = subprocess.run(flags, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=400)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Traceback" not in again.stderr and again.stdout.splitlines()[-1] == str(folder / "sweep.html")
    assert "pair generators to train" not in again.stdout and " of 4 trials to train, 2 at once" in again.stdout
    assert finished(folder).items() > before.items() and not list(folder.glob("pairs/*/codes/kept/*"))
    assert len(list((folder / "pairs").iterdir())) == 2 and len(list((folder / "trials").iterdir())) == 4
    rows = table(folder)
    assert [(row["interval"], row["num_codes"], row["status"]) for row in rows] == [
        (k, n, "done") for k in ("2", "3") for n in ("2", "4")
    ]  # fmt: skip
    assert all(float(row["frechet"]) > 0 for row in rows)


@pytest.mark.usefixtures("ray_session")
def test_more_trials_than_room_wait(tiny_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On four logical CPUs two trials run at a time, each a worker and its decoding, and a third one comes after."""
    assert teams(nodes()[0], Resources()) == 2
    folder = open_sweep(str(tmp_path / "s"), Sweep(tiny_run.run, {"num_codes": (1, 2, 3)}, tiny_run.data))
    assert trained(folder, Resources(threads=1, start_s=300), 0, 0) == {}
    said = capsys.readouterr().out
    assert "sweep: 1 of 1 pair generators to train, 1 at once" in said and "sweep: 3 of 3 trials to train, 2 at once" in said
    assert said.count(" done, Frechet distance") == 4
    assert [outcome(folder, trial).status for trial in folder.sweep.trials()] == ["done"] * 3


class Idle(Phase):
    """Runs that train nothing: the first ends at a stop as one that has committed, the second hears of none."""

    def train(self, run: RunFolder, placed: Callable[[Room], None]) -> None:
        run.store.write("begun", b"")
        with awaited() as asked:
            while asked() is None or run.run.num_codes == 2:
                time.sleep(0.1)
            raise Stopped("committed")


@pytest.mark.usefixtures("ray_session")
def test_at_a_stop_what_is_at_work_ends_and_nothing_begins(
    tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM to this process while two of three trials are at work. The one that hangs is not waited for for ever."""
    monkeypatch.setattr(module, "LATE_S", 9.0)
    folder = open_sweep(str(tmp_path / "s"), Sweep(tiny_run.run, {"num_codes": (1, 2, 3)}, tiny_run.data))
    trials = {trial.key: trial for trial in folder.sweep.trials()}
    marks = [tmp_path / "s" / "trials" / key / "begun" for key in trials]

    def terminate() -> None:
        deadline = time.monotonic() + LAST_S
        while not all(mark.exists() for mark in marks[:2]) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    failed: dict[str, str] = {}
    threading.Thread(target=terminate, daemon=True).start()
    phase = Idle("trial", "video", folder, trials, Resources(hang_s=1), 2, halving=2)
    with pytest.raises(Terminated), stoppable(0):
        module._tune(phase, list(trials), None, failed)
    assert capsys.readouterr().out.splitlines() == [
        "sweep: 3 of 3 trials to train, 2 at once",
        "sweep: stopped by SIGTERM; of the trials 2 are at work, which commit and end",
        "sweep: trial of num_codes 1: committed",
        "sweep: trial of num_codes 2: not ended within 10 s; killed, and what came after the last commit is lost",
    ]
    assert [mark.exists() for mark in marks] == [True, True, False]
    assert failed == {} and not any(folder.stopped(trial) for trial in trials.values())


@pytest.mark.usefixtures("ray_session")
def test_beside_another_job_runs_wait_for_room(tiny_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another job keeps two of four CPUs, so that there is room for one worker and its decoding. Of two runs at once one
    waits; were both let in, nothing would be left to decoding. They are the rows of a table that ends with stage 1.
    """
    table = TABLES["table1-ucf101"]
    folder = open_sweep(str(tmp_path / "s"), table.sweep(tiny_run.run, tiny_run.data))
    other = placement_group([{"CPU": 2}])
    ray.get(other.ready())
    try:
        assert trained(folder, Resources(threads=1, hang_s=60), 0, 0) == {}
    finally:
        remove_placement_group(other)
    said = capsys.readouterr().out
    assert "sweep: 2 of 2 pair generators to train, 2 at once" in said
    assert said.count("waits for room on the cluster: 1 workers take a CPU each") == 1 and "waits again" not in said
    assert "trials to train" not in said and not (tmp_path / "s" / "trials").exists()
    found = [frames_outcome(folder, trial) for trial in folder.sweep.trials()]
    assert [(each.trial.values["case"], each.status) for each in found] == [("StyleGAN2", "done"), ("MotionStyleGAN", "done")]
    assert all(each.best and each.best["frechet_frames"] > 0 for each in found)


def trained(folder: SweepFolder, resources: Resources, at_once: int, halving: int) -> dict[str, str]:
    """What has failed of a sweep that is trained."""
    failed: dict[str, str] = {}
    run_sweep(folder, resources, at_once, halving, failed)
    return failed
