"""A driver killed before and after each step of the commit protocol on a local disk, and one that is paused and comes back."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


ROOT = Path(__file__).parents[3]

CREATE = (": open", ": fsync file", ": link", ": fsync folder", ": unlink temporary")
WRITE = (": mkdir", ": fsync folder", ": open", ": fsync file", ": replace", ": unlink temporary")
DELETE = (": unlink", ": rmdir")
STEPS = {
    "list epochs/", "list commits/", "list data/", "read epochs/#.inherits.json", "read commits/#.json",
    *[f"create epochs/#.json{call}" for call in ("", *CREATE)],  # the claim
    *[f"create epochs/#.inherits.json{call}" for call in ("", *CREATE)],  # what was valid then
    *[f"write data/#/state.pt{call}" for call in ("", *WRITE)],  # data, the folder made by the first file
    *[f"write data/#/ema.pt{call}" for call in ("", *WRITE) if call != ": mkdir"],
    "size data/#/state.pt", "size data/#/ema.pt", "read data/#/state.pt", "read data/#/ema.pt",
    *[f"create commits/#.json{call}" for call in ("", *CREATE)],  # the record
    *[f"delete commits/#.json{call}" for call in ("", *DELETE)],  # pruning, the record first
    *[f"delete data/#/{file}{call}" for file in ("state.pt", "ema.pt") for call in ("", *DELETE)],
}  # fmt: skip
"""All steps of a claim, a commit of two files and the removal of an old commit."""
COMMITTED = "create commits/#.json: link"
"""The step that makes the new commit."""


@pytest.fixture
def folder() -> Iterator[str]:
    """In memory where there is such a place: a killed process loses nothing that it wrote, and every step syncs."""
    path = tempfile.mkdtemp(prefix="mvgan-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    yield path
    shutil.rmtree(path)


def matrix(which: str, folder: str) -> list[dict[str, Any]]:
    """In a process of its own, without torch and threads, that forks the drivers."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.commit_steps", which, folder], cwd=ROOT, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_kill_at_every_step_leaves_the_old_or_the_new_state(folder: str) -> None:
    plan, *kills = matrix("kill", folder)
    names = plan["names"]
    assert set(names) == STEPS
    assert plan["unnamed"] == [], "changes of the disk outside of any step"
    tried = {(kill["index"], kill["when"]) for kill in kills}
    assert tried == {(index, when) for index in range(len(names)) for when in ("before", "after")}, "a step without its kill points"
    assert {kill["ended"] for kill in kills} == {-9}
    operation, committed = names.index(COMMITTED.partition(":")[0]), names.index(COMMITTED)
    for kill in kills:
        # The end of the whole operation comes after that of its last call, but has the number of its beginning.
        after = kill["when"] == "after"
        new = after if kill["index"] in (operation, committed) else kill["index"] > committed
        assert kill["state"] == ("new" if new else "old"), kill
    print(f"{len(kills)} kills at {len(names)} steps: 0 violations")


def test_a_paused_driver_that_comes_back_never_wins(folder: str) -> None:
    pauses = matrix("pause", folder)
    assert len(pauses) >= 20
    assert not [pause for pause in pauses if pause["won"]]
    assert {pause["ended"] for pause in pauses} == {3}, "a driver that does not learn that it is superseded"
    print(f"{len(pauses)} pauses: 0 wins")


def test_a_kill_at_every_step_of_a_hold_leaves_the_folder_to_the_next_driver(folder: str) -> None:
    kills = matrix("hold", folder)
    assert sum(kill["ended"] == -9 for kill in kills) > 50
    assert {kill["next"] for kill in kills} == {0}
    assert {kill["claims"] for kill in kills} == {3}


def test_a_change_outside_of_any_step_is_noticed(tmp_path: Path) -> None:
    """Control: the audit that must find nothing in the protocol finds what is planted."""
    code = """
import os, sys
from pathlib import Path
from tests.commit_steps import Steps, system_steps, unnamed_changes, StepStore
from mvgan.storage.uri import open_store
root, steps = sys.argv[1], Steps()
found = unnamed_changes(steps, root)
with system_steps(steps):
    StepStore(open_store(root), steps).write("named", b"")
    assert not found
    Path(root, "unnamed").write_bytes(b"")
    os.rename(f"{root}/unnamed", f"{root}/other")
print(len(found))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("2\n", "")
