"""A sweep as a job of a real head: stopped by `ray job stop`, ended by its own hours, and submitted again to its end."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvgan.storage.commit import Commits
from mvgan.storage.uri import open_store
from tests.ray.head import LAST_S, Head, started
from tests.ray.test_sweep import statuses
from tests.short_run import command


LONG = ("--pairs.total-kimg", "14.4", "--pairs.commit-kimg", "14.4", "--pairs.evaluations", "1")
"""A minute or two of stage 1, none of which is committed before its end."""
GRID = ("--interval", "2", "3", "--num-codes", "2", "4", "--video.eval-clips", "16")
HOURS = "0.015"


@pytest.fixture
def head() -> Iterator[Head]:
    with started() as head:
        yield head


def committed(folder: Path) -> dict[str, int]:
    """Pairs that each pair generator has seen at its newest commit."""
    newest = {run.name: Commits(open_store(str(run)), "pairs").newest() for run in (folder / "pairs").iterdir()}
    return {name: commit.images for name, commit in newest.items() if commit is not None}


def test_a_sweep_that_is_stopped_twice_goes_on(head: Head, clips: Path, tmp_path: Path) -> None:
    """Both stops come while two pair generators train, and each commits where it is. What goes on begins there, and no further back."""
    words = ["sweep", *command(*GRID, *LONG, "--videos", str(clips), "--storage", str(tmp_path), "--name", "s", job="sweep")[3:]]
    folder, deadline = tmp_path / "s", time.monotonic() + LAST_S
    first = head.submit("--no-wait", "--submission-id", "first", "--", *words)
    assert first.returncode == 0, first.stderr + first.stdout
    while len(list(folder.glob("pairs/*/pairs/metrics.jsonl"))) < 2:
        assert time.monotonic() < deadline, head.job("logs", "first").stdout
        time.sleep(0.1)
    stop = head.job("stop", "first")
    assert stop.returncode == 0 and head.wait("first") == "STOPPED", stop.stdout + stop.stderr
    said = head.job("logs", "first").stdout
    assert "2 are at work, which commit and end" in said and "error: stopped by SIGTERM; the same command goes on" in said, said
    at = committed(folder)
    assert len(at) == 2 and all(0 < images < 14400 for images in at.values()), said
    assert statuses(folder) == ["unfinished"] * 4

    second = head.submit("--submission-id", "second", "--", *words, "--max-hours", HOURS)
    assert second.returncode == 1, second.stdout + second.stderr
    assert f"error: the {HOURS} hours of --max-hours are over; the same command goes on from the last commit" in second.stdout
    later = committed(folder)
    print(f"committed at {sorted(at.values())} pairs, then at {sorted(later.values())}")
    assert later.keys() == at.keys() and all(at[name] < later[name] < 14400 for name in at), second.stdout

    third = head.submit("--submission-id", "third", "--", *words)
    assert third.returncode == 0 and third.stdout.splitlines()[-1] == "third succeeded", third.stdout + third.stderr
    logs = [log.read_text() for log in folder.glob("pairs/*/logs/*.log")]
    begun = {int(images) for log in logs for images in re.findall(r"pairs: goes on from its commit at (\d+)", log)}
    assert begun == {*at.values(), *later.values()}
    assert statuses(folder) == ["done"] * 4
