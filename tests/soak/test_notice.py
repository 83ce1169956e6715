"""The command that Kubernetes runs before it ends a pod, against real raylets.

Reference: Ray's list of nodes, a task that says itself when it has ended, and the raylet's own process.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mvgan.distributed.notice import nodes_here
from tests.kill_matrix import LAST_S, Machines, machines
from tests.short_run import ROOT


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Machines]:
    with machines() as cluster:
        yield cluster


def busy(node: Any, said: Path, seconds: float) -> None:
    """Start a task on a node that takes so long, and then writes `said`; returns once it has begun."""

    @ray.remote(num_cpus=1, max_retries=0)
    def work() -> None:
        begun.touch()
        time.sleep(seconds)
        said.touch()

    begun = said.with_suffix(".begun")
    work.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote()
    deadline = time.monotonic() + LAST_S
    while not begun.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def now(cluster: Machines, node: Any, seconds: int) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "mvgan.distributed.notice", "now", "--seconds", str(seconds), "--node-id", node.node_id]
    return subprocess.run(line, cwd=ROOT, env=cluster.environment(), capture_output=True, text=True, timeout=LAST_S)


def alive(node: Any) -> bool:
    """What Ray says of it."""
    return any(one["NodeID"] == node.node_id and one["Alive"] for one in ray.nodes())


def test_it_returns_when_the_work_has_ended_and_the_raylet_with_it(two_nodes: Machines, tmp_path: Path) -> None:
    node, other = two_nodes.nodes
    assert {node.node_id, other.node_id} <= nodes_here()
    busy(node, tmp_path / "ended", 8)
    began = time.monotonic()
    done = now(two_nodes, node, 120)
    took_s = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ended").exists(), "it has returned before the work had ended"
    assert node.node_id not in nodes_here() and other.node_id in nodes_here()
    assert not alive(node) and alive(other)
    print(f"work of 8 s: returned after {took_s:.1f} s of 120")
    assert took_s < 120


def test_it_returns_when_the_time_is_over(two_nodes: Machines, tmp_path: Path) -> None:
    """The node is then drained, so that training was told, and the work still there."""
    from mvgan.distributed.resources import draining

    node = two_nodes.nodes[-1]
    busy(node, tmp_path / "ended", 600)
    began = time.monotonic()
    done = now(two_nodes, node, 15)
    took_s = time.monotonic() - began
    print(f"work that stays: returned after {took_s:.1f} s of 15")
    assert took_s < 15 + 10, "a start of Python and a look at processes beside it"
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "error: its work has not left within 15 s"
    assert node.node_id in draining() and node.node_id in nodes_here() and not (tmp_path / "ended").exists()
