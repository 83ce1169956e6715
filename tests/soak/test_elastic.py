"""Nodes that are lost or taken away, replaced and not, at the pace and with the health checks that users have."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvgan.distributed.elastic import GROW_S
from mvgan.distributed.resources import SETTLE_S
from tests.changing import ONE_COMMIT, Training
from tests.kill_matrix import Scene, machines


PACE = (GROW_S, SETTLE_S)
DEADLINE_S = 60
SOON_S = 60.0
"""Most that training may stand still when a node is lost."""


@pytest.fixture(scope="module")
def scene(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A cluster of two nodes."""
    with machines(health={}) as cluster:
        yield Scene(cluster, shards, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def whole(scene: Scene) -> str:
    """Hash of the weights of a run that nobody disturbed."""
    training = Training(scene, "whole", PACE, "--workers", "2")
    training.ends()
    return weights(training)


def weights(training: Training) -> str:
    return hashlib.sha256((training.folder / "export/generator.safetensors").read_bytes()).hexdigest()


def test_a_node_lost_and_replaced(whole: str, scene: Scene) -> None:
    """With as many workers as before: the weights of the undisturbed run."""
    training = Training(scene, "replaced", PACE, "--workers", "2")
    training.trains(200)
    lost_at = time.monotonic()
    scene.machines.lose(scene.machines.node_of_a_worker())
    scene.machines.add()
    print(f"lost and replaced: two workers again after {training.goes_on(lost_at, SOON_S):.1f} s")
    training.ends()
    assert weights(training) == whole


def test_a_node_drained_and_replaced(whole: str, scene: Scene) -> None:
    """The commit is where the notice found it, not at the interval; the weights are those of the undisturbed run."""
    training = Training(scene, "drained", PACE, *ONE_COMMIT, "--workers", "2")
    training.trains(200)
    node, drained_at = scene.machines.node_of_a_worker(), time.monotonic()
    scene.machines.drain(node, DEADLINE_S)
    training.await_("the commit", lambda: bool(training.commits()), DEADLINE_S)
    committed_s = time.monotonic() - drained_at
    scene.machines.add()
    scene.machines.hold()
    print(f"drained: committed at {training.commits()} after {committed_s:.1f} s, two workers after {training.goes_on(drained_at):.1f} s")
    scene.machines.lose(node)
    training.ends()
    assert weights(training) == whole


def test_a_node_lost_and_not_replaced(scene: Scene) -> None:
    """One worker sees what two would have."""
    training = Training(scene, "alone", PACE, "--workers", "2", "--min-workers", "1")
    training.trains(200)
    lost_at = time.monotonic()
    scene.machines.lose(scene.machines.node_of_a_worker())
    print(f"lost: one worker after {training.goes_on(lost_at, SOON_S):.1f} s")
    training.ends()
    assert "begins with 1 of 2 workers" in scene.said("alone")
