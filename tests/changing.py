"""A recorded training on a cluster that changes: what tests/ray and tests/soak share.

Reference for its samples: the windows of the run decoded in one process, without Ray and without training.
"""

import hashlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from mvgan.data.shards import ShardSet
from mvgan.storage.run import read_run
from mvgan.train.ranks import Ranks
from mvgan.train.session import group_of, local_batches, num_shards, plan_of
from tests.kill_matrix import LAST_S, SETTINGS, Scene
from tests.unit.train.elastic_workers import kept


ONE_COMMIT = ["--pairs.commit-kimg", "100"]
"""The only commits are the last one and those that somebody has asked for."""


class Training:
    """A recorded training of stage 1 on a cluster."""

    def __init__(self, scene: Scene, name: str, pace: tuple[float, float], *flags: str) -> None:
        """pace: GROW_S and SETTLE_S."""
        scene.machines.hold()
        place = ["--data", str(scene.data), "--storage", str(scene.root), "--name", name]
        self.scene, self.name, self.folder = scene, name, scene.root / name
        self.driver: subprocess.Popen[str] = scene.launch(
            name, ["tests.recorded_job", *map(str, pace), "pairs", *place, *SETTINGS, "--threads", "1", *flags]
        )

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

    def goes_on(self, since: float, longest_s: float = LAST_S) -> float:
        """Seconds from `since`, by the monotonic clock, until the next batch is given to a worker, also one that another had before."""
        before = self._newest()
        self.await_("training goes on", lambda: self._newest() > before, longest_s)
        return time.monotonic() - since

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
