"""A training whose cluster shrinks and grows sees the samples of an undisturbed one, and commits before what it was told of.

One training goes through all of it here; tests/soak has each by itself, at the pace and with the health checks that users have.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.changing import ONE_COMMIT, Training
from tests.kill_matrix import Scene, machines


DEADLINE_S = 40


@pytest.fixture(scope="module")
def scene(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A cluster of two nodes."""
    with machines() as cluster:
        yield Scene(cluster, shards, tmp_path_factory.mktemp("runs"))


def test_two_workers_one_of_them_again_and_one(scene: Scene) -> None:
    """A node is drained with a deadline, then another one comes, then one is lost: two workers, one, two, one."""
    training = Training(scene, "elastic", (5, 2), *ONE_COMMIT, "--pairs.total-kimg", "2", "--workers", "2", "--min-workers", "1")
    training.trains(160)
    node, drained_at = scene.machines.node_of_a_worker(), time.monotonic()
    scene.machines.drain(node, DEADLINE_S)
    training.await_("the commit", lambda: bool(training.commits()), DEADLINE_S)
    committed_s = time.monotonic() - drained_at
    training.says("begins with 1 of 2 workers")
    print(f"drained: committed after {committed_s:.1f} s of {DEADLINE_S}, one worker after {training.goes_on(drained_at):.1f} s")
    scene.machines.lose(node)

    came_at = time.monotonic()
    scene.machines.add()
    scene.machines.hold()
    training.says("there is room for 2 workers; it has committed")
    print(f"a node more: two workers after {training.goes_on(came_at):.1f} s")
    training.trains(160)

    lost_at = time.monotonic()
    scene.machines.lose(scene.machines.node_of_a_worker())
    print(f"a node lost: one worker after {training.goes_on(lost_at):.1f} s")
    training.ends()
    said = scene.said("elastic")
    assert said.count("begins with 1 of 2 workers") == 2 and "a node of its workers will be taken away in" in said
