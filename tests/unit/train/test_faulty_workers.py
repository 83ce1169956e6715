"""Two gloo workers of which one meets numbers that are not finite, or a storage that refuses: both do the same."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.unit.train import faulty_workers
from tests.unit.train.test_pairs import equal


SCRIPT = Path(__file__).with_name("faulty_workers.py")


def start(folder: Path, what: str) -> list[subprocess.Popen[str]]:
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(SCRIPT.parents[3]), "PYTHONWARNINGS": "ignore"}
    return [
        subprocess.Popen([sys.executable, str(SCRIPT), str(rank), str(folder), what], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both workers wrote about their faulty numbers."""
    folder = tmp_path_factory.mktemp("workers")
    workers = start(folder, "numbers")
    try:
        said = [worker.communicate(timeout=300)[1] for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], said
    finally:
        for worker in workers:
            worker.kill()
    return folder


@pytest.mark.parametrize("fault", faulty_workers.FAULTS)
@pytest.mark.parametrize(("name", "phase"), faulty_workers.CASES)
def test_a_fault_of_one_worker_is_left_out_by_both(folder: Path, name: str, phase: str, fault: str) -> None:
    """Reference: the same two workers without the fault, whose optimizer takes no step there: the same bits at the end."""
    states = {}
    for kind in (fault, "omitting"):
        first, second = (torch.load(folder / f"{name} {phase} {kind} {rank}.pt", weights_only=True) for rank in range(2))
        assert first["skipped"] == second["skipped"]
        assert equal(first["state"], second["state"]), "the workers differ from each other"
        states[kind] = first
    times = 2 if phase == "latent" else 1
    assert states[fault]["skipped"] == [0, 0, times, 0] and states["omitting"]["skipped"] == [0, 0, 0, 0]
    assert equal(states[fault]["state"], states["omitting"]["state"])


def test_the_reference_leaves_out_what_it_says(folder: Path) -> None:
    """It would prove nothing if all cases ended alike."""
    ends = [torch.load(folder / f"pairs {phase} omitting 0.pt", weights_only=True)["state"] for _, phase in faulty_workers.CASES[:4]]
    assert not any(equal(a, b) for i, a in enumerate(ends) for b in ends[:i])


def test_a_fault_that_stays_ends_both_at_the_same_step(folder: Path) -> None:
    first, second = ((folder / f"raised {rank}").read_text() for rank in range(2))
    assert first == second == "pairs: loss or gradients of D not finite up to 16 pairs, 3 times in a row"


def test_missed_commits_end_both_workers(tmp_path: Path) -> None:
    """The first worker says why; the other, which waits for it in a collective, ends too."""
    started = time.monotonic()
    workers = start(tmp_path, "storage")
    try:
        said = [worker.communicate(timeout=120)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    # Not with a status of our choice: gloo may abort a process whose peer went while it left.
    assert all(worker.returncode != 0 for worker in workers), said
    assert "MissedCommits: pairs: 3 commits in a row could not be written: [Errno 28] No space left on device" in said[0]
    assert f"{tmp_path}/run/pairs/commits/000000000004-00001.json" in said[0]
    assert time.monotonic() - started < 100
