"""What dies, hangs or is lost on a cluster: the same weights in the end, to the bit.

One cell here, all in tests/soak.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kill_matrix import LAST_S, Scene, killed_run, machines, title


@pytest.fixture(scope="module")
def scene(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A cluster and an undisturbed stage 1."""
    with machines() as cluster:
        scene = Scene(cluster, shards, tmp_path_factory.mktemp("runs"))
        scene.make_whole("pairs")
        yield scene


def test_a_node_killed_at_a_commit(scene: Scene) -> None:
    """A driver is killed in test_pipeline.py."""
    assert killed_run(scene, "node", "pairs", 320) == scene.sha256("pairs")


def test_a_stopped_worker_is_ended_and_replaced(scene: Scene) -> None:
    """SIGSTOP: its peer waits in a collective, keeps its stacks and ends; both start again."""
    driver = scene.start("pairs", "stopped", "--hang-s", "20")
    scene.wait_for("pairs", "stopped", 320, driver)
    stopped = scene.machines.workers()[0]
    os.kill(stopped, signal.SIGSTOP)
    stopped_at = time.monotonic()
    assert driver.wait(LAST_S) == 0, scene.said("stopped")
    assert scene.sha256("pairs", "stopped") == scene.sha256("pairs")
    said = scene.said("stopped")
    assert "has finished no step for 20 s; the stacks of its threads are in" in said and "hung; starting the workers again" in said
    stacks = list((scene.root / "stopped/logs").glob("*-stacks.txt"))
    assert stacks and str(stacks[0]) in said and "Traceback" not in said
    assert "in step" in stacks[0].read_text() and "train/pairs.py" in stacks[0].read_text()
    assert title(stopped) == "" and time.monotonic() - stopped_at < 150
