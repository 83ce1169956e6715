"""The parts of an examination that need no cluster: room for workers, waiting for nodes, and the flags of the raylet above."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mvgan.config import Resources
from mvgan.distributed import doctor
from mvgan.distributed.doctor import Plan, cpus
from mvgan.distributed.probe import raylet_flags
from mvgan.distributed.resources import Node
from tests.unit.distributed.test_resources import Asked


def test_cpus_count_workers_and_decoding() -> None:
    """Reference: a CPU for each worker, and half of one for its decoding."""
    node = Node(3, 0)
    assert cpus([node], [node], Resources(workers=2)).state == "ok"
    assert "2 decoding tasks fit beside the workers" in cpus([node], [node], Resources(workers=2)).found
    wrong = cpus([Node(2, 0)], [Node(2, 0)], Resources(workers=2))
    assert (
        wrong.state == "WRONG" and "3 CPUs in all; the cluster has 2 CPUs" in wrong.found and "lower --workers or add nodes" in wrong.advice
    )
    assert cpus([node], [node], Resources(workers=2, gpu=True)).state == "WRONG", "there is no GPU"
    busy = cpus([node], [Node(1, 0)], Resources(workers=2))
    assert busy.state == "ok" and "other jobs leave 1 CPUs" in busy.found


@pytest.mark.parametrize(("arrive_after", "enough"), [(3, True), (10**9, False)])
def test_nodes_are_waited_for_and_given_back(arrive_after: int, enough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is the test's own: a look at the nodes each second."""
    looks, now, kept = [0], [0.0], threading.Event()
    Asked.ever.clear()

    def nodes() -> tuple[list[Node], list[Node]]:
        looks[0] += 1
        found = [Node(4, 0)] if looks[0] > arrive_after else []
        return found, found

    monkeypatch.setattr(doctor, "nodes", nodes)
    monkeypatch.setattr(doctor, "Ask", Asked)
    monkeypatch.setattr(Asked, "keep", lambda self: kept.set())
    monkeypatch.setattr(doctor, "POLL_S", 0.5)
    monkeypatch.setattr(doctor.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(doctor.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    with doctor._grown(Plan(Resources(), None, None, wait_s=60, answer_s=60)):
        assert 0 < now[0] < 10 if enough else 60 <= now[0] <= 61
        assert [(ask.bundles, ask.withdrawn) for ask in Asked.ever] == [([{"CPU": 1}, {"CPU": 0.5}], False)]
        kept.clear()
        assert kept.wait(60), "the request is repeated while nodes are examined"
    assert Asked.ever[0].withdrawn
    kept.clear()
    assert not kept.wait(1.0), "it is repeated no more"


def test_flags_of_the_raylet_above(tmp_path: Path) -> None:
    """Reference: a program of that name, with flags of our own, that has started a process, which prints what it finds."""
    (tmp_path / "raylet").symlink_to(sys.executable)
    child = "import json, os; from mvgan.distributed.probe import raylet_flags; print(json.dumps(raylet_flags(os.getpid())))"
    parent = f"import subprocess, sys; subprocess.run([{sys.executable!r}, '-c', {child!r}], check=True)"
    command = [str(tmp_path / "raylet"), "-c", parent, "--plasma_directory=/dev/shm", "--fallback_directory=/a folder/x=y"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    assert found["plasma_directory"] == "/dev/shm" and found["fallback_directory"] == "/a folder/x=y"


def test_without_a_raylet_above_there_are_none() -> None:
    assert raylet_flags(1) == {}
