"""A worker, the driver or a node killed at five moments of stage 1 and of stage 3, and a node that is lost for good, on several nodes."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kill_matrix import KILLS, LAST_S, Scene, killed_run, machines
from tests.soak.record import Record


MOMENTS = {"pairs": (0, 160, 320, 400, 480), "video": (0, 32, 64, 96, 128)}
CELLS = [(victim, stage, images) for victim in KILLS for stage, moments in MOMENTS.items() for images in moments]
TABLE = "Two workers on two nodes: a worker, the driver, or a node with a worker on it"


@pytest.fixture(scope="module")
def scene(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A cluster and an undisturbed run."""
    with machines() as cluster:
        scene = Scene(cluster, shards, tmp_path_factory.mktemp("runs"))
        scene.make_whole()
        yield scene


@pytest.mark.parametrize(("victim", "stage", "images"), CELLS)
def test_killed_at(victim: str, stage: str, images: int, record: Record, request: pytest.FixtureRequest) -> None:
    cell = f"{victim}, {stage}, {f'at the commit of {images}' if images else 'at the begin'}"
    record.skip_known(TABLE, cell)
    scene = request.getfixturevalue("scene")
    started = time.monotonic()
    identical = killed_run(scene, victim, stage, images) == scene.sha256(stage)
    record.add(TABLE, cell, identical, started)
    assert identical


def test_a_node_that_nothing_replaces_ends_the_run_in_time(scene: Scene) -> None:
    """Ray would wait for ever. The same command, with the node replaced, then goes on."""
    driver = scene.start("pairs", "alone", "--start-s", "30")
    scene.wait_for("pairs", "alone", 320, driver)
    scene.machines.lose(scene.machines.node_of_a_worker())
    assert driver.wait(LAST_S) == 1, scene.said("alone")
    last = scene.said("alone").splitlines()[-1]
    assert last.startswith("error: no room within 30 s: 2 workers take a CPU each"), last
    assert "3 CPUs in all; the cluster has 2 CPUs" in last and "Traceback" not in scene.said("alone")
    refused = scene.start("pairs", "alone")
    assert refused.wait(LAST_S) == 2, "2 CPUs for 2 workers would hang for want of decoding"
    assert scene.said("alone").splitlines()[-1].startswith("error: 2 workers take a CPU each and their decoding 0.5 CPU each")
    scene.machines.add()
    assert scene.start("pairs", "alone").wait(LAST_S) == 0, scene.said("alone")
    assert scene.sha256("pairs", "alone") == scene.sha256("pairs")
