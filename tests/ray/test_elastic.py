"""A training whose cluster shrinks and grows sees the samples of an undisturbed one, and commits before what it was told of.

Reference: the windows of the run decoded in one process, without Ray and without training.
"""

import hashlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mvgan.data.shards import ShardSet
from mvgan.storage.run import read_run
from mvgan.train.ranks import Ranks
from mvgan.train.session import group_of, local_batches, num_shards, plan_of
from tests.kill_matrix import LAST_S, SETTINGS, Scene, machines
from tests.unit.train.elastic_workers import kept


LONG = [*SETTINGS, "--pairs.total-kimg", "4", "--pairs.commit-kimg", "100", "--pairs.tick-kimg", "1", "--threads", "1"]
"""The only commits are the last one and those of which this test is the cause."""
DEADLINE_S = 40
SOON_S = 60.0
"""Most that training may stand still."""


@pytest.fixture(scope="module")
def scene(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A cluster of two nodes."""
    with machines() as cluster:
        yield Scene(cluster, shards, tmp_path_factory.mktemp("runs"))


class Training:
    """A recorded training of stage 1 on a cluster."""

    def __init__(self, scene: Scene, name: str, *flags: str) -> None:
        scene.machines.hold()
        place = ["--data", str(scene.data), "--storage", str(scene.root), "--name", name]
        self.scene, self.name, self.folder = scene, name, scene.root / name
        self.driver: subprocess.Popen[str] = scene._launch(name, ["tests.recorded_job", "5", "pairs", *place, *LONG, *flags])

    def await_(self, what: str, holds: Callable[[], bool], longest_s: float = LAST_S) -> float:
        """Seconds until `holds`."""
        started = time.monotonic()
        while not holds():
            assert self.driver.poll() is None, f"ended before {what}: {self.scene.said(self.name)}"
            assert time.monotonic() < started + longest_s, f"{what} never came: {self.scene.said(self.name)}"
            time.sleep(0.05)
        return time.monotonic() - started

    def says(self, words: str) -> float:
        """Seconds until it has said this."""
        return self.await_(words, lambda: words in self.scene.said(self.name))

    def trains(self, images: int) -> float:
        """Seconds until a batch that begins so many images after those that it has had by now, or later, was given to a worker."""
        beyond = self.seen() + images
        return self.await_(f"the sample {beyond}", lambda: self.seen() >= beyond)

    def goes_on(self) -> float:
        """Seconds until the next batch is given to a worker, also if it is one that another had before."""
        before = self._newest()
        return self.await_("training goes on", lambda: self._newest() > before, SOON_S)

    def seen(self) -> int:
        """Images at the begin of the furthest batch so far; -1 before the first."""
        return max((int(path.name.split("-")[0]) for path in self.folder.glob("seen/*")), default=-1)

    def _newest(self) -> float:
        return max((path.stat().st_mtime for path in self.folder.glob("seen/*")), default=0.0)

    def commits(self) -> list[int]:
        """Images at each commit."""
        return sorted(int(path.name.split("-")[0]) for path in self.folder.glob("pairs/commits/*.json"))

    def ends(self) -> None:
        """Wait for its end, and compare all that was seen with what one process decodes."""
        assert self.driver.wait(LAST_S) == 0, self.scene.said(self.name)
        assert "Traceback" not in self.scene.said(self.name)
        folder, wanted = read_run(str(self.folder)), self.folder / "wanted"
        wanted.mkdir()
        shards, run = ShardSet.open(folder.data), folder.run
        plan = plan_of(run, "pairs", len(shards))
        batches = kept(local_batches(shards, run, "pairs"), wanted, None)(0, Ranks(num_shards(run, "pairs"), group_of(run, "pairs")))
        for _ in range(plan.end // plan.batch):
            next(batches)
        assert stream(self.folder / "seen") == stream(wanted)


def stream(seen: Path) -> tuple[int, str]:
    """How many parts of logical shards, and their hash in order."""
    files = sorted(seen.iterdir())
    return len(files), hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


def test_two_workers_one_of_them_again_and_one(scene: Scene) -> None:
    """A node is drained with a deadline, then another one comes, then one is lost: two workers, one, two, one."""
    training = Training(scene, "elastic", "--workers", "2", "--min-workers", "1")
    training.trains(160)
    node = scene.machines.node_of_a_worker()
    scene.machines.drain(node, DEADLINE_S)
    committed_s = training.await_("the commit", lambda: bool(training.commits()), DEADLINE_S)
    (at,) = training.commits()
    began_s = training.says("begins with 1 of 2 workers")
    again_s = training.goes_on()
    print(f"drained: committed at {at} after {committed_s:.1f} s of {DEADLINE_S}, one worker after {committed_s + began_s + again_s:.1f} s")
    scene.machines.lose(node)

    scene.machines.add()
    scene.machines.hold()
    grown_s = training.says("there is room for 2 workers; it has committed")
    print(f"a node more: committed after {grown_s:.1f} s, two workers after {grown_s + training.goes_on():.1f} s")
    training.trains(160)

    scene.machines.lose(scene.machines.node_of_a_worker())
    print(f"a node lost: one worker after {training.goes_on():.1f} s")
    training.ends()
    said = scene.said("elastic")
    assert said.count("begins with 1 of 2 workers") == 2 and "a node of its workers will be taken away in" in said
