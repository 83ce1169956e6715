"""SIGKILL of a worker, of the driver and of a node, at five moments of stage 1 and of stage 3, on a cluster of several nodes."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kill_matrix import KILLS, Scene, killed_run, machines
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
