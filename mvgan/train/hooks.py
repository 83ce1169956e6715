"""What happens beside training: log lines and metrics, sample grids, the Frechet distance, commits."""

import json
import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensorboardX import SummaryWriter
from torch import Tensor

from mvgan.storage.commit import Commits
from mvgan.storage.uri import Store
from mvgan.train.ranks import Ranks
from mvgan.train.stage import Plan, Stage
from mvgan.train.state import Progress, to_bytes


logger = logging.getLogger(__name__)

History = list[dict[str, Any]]
"""The metrics of a stage, one record a tick; part of each commit, so that a resumed run neither repeats nor loses one."""


Say = Callable[[str], None]
"""Takes a line for people to read."""


class NonFinite(RuntimeError):
    """A loss has become NaN or infinite."""


class Ticker:
    """Averages what the steps return, and every `plan.tick` images, and before each commit, writes a log line and a record of metrics."""

    def __init__(self, name: str, unit: str, plan: Plan, ranks: Ranks, store: Store, history: History, say: Say) -> None:
        self.name, self.unit, self.plan, self.ranks, self.store, self.history = name, unit, plan, ranks, store, history
        self.say = say
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.last = Progress()
        self.board = _Board(store, name) if ranks.rank == 0 else None

    def start(self, stage: Stage, progress: Progress) -> None:
        """Note from where the rate counts."""
        self.last = progress

    def after_step(self, stage: Stage, progress: Progress, stats: dict[str, Tensor]) -> None:
        """Add up; at a tick average over the workers and write."""
        for name, value in stats.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
            self.counts[name] = self.counts.get(name, 0) + 1
        # A commit ends an average too, so that a run which goes on from it averages over the same steps.
        if self.plan.due(progress, self.plan.tick) or self.plan.commit_due(progress):
            averages = self.ranks.average({name: total / self.counts[name] for name, total in self.sums.items()})
            self.sums, self.counts = {}, {}
            bad = [name for name, value in averages.items() if not math.isfinite(value)]
            if bad:
                raise NonFinite(f"{self.name}: {', '.join(bad)} not finite between {self.last.images} and {progress.images} {self.unit}")
            if self.board is not None:
                self._write(progress, averages)
            self.last = progress

    def _write(self, progress: Progress, averages: dict[str, float]) -> None:
        rate = (progress.images - self.last.images) / max(progress.elapsed_s - self.last.elapsed_s, 1e-9)
        record = {"images": progress.images, "elapsed_s": round(progress.elapsed_s, 1), f"{self.unit}_per_s": round(rate, 2), **averages}
        self.history.append(record)
        write_metrics(self.store, self.name, self.history)
        assert self.board is not None
        self.board.add(record)
        eta = (self.plan.end - progress.images) / rate
        losses = "  ".join(f"{name} {value:.4g}" for name, value in averages.items())
        self.say(
            f"{self.name}: {progress.images}/{self.plan.end} {self.unit}  {rate:.1f} {self.unit}/s  "
            f"{progress.elapsed_s:.0f} s  ETA {eta:.0f} s  {losses}"
        )


class _Board:
    """TensorBoard events; written to a scratch folder and copied, since object storage has no append."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.folder = tempfile.TemporaryDirectory(prefix="mvgan-")
        self.writer = SummaryWriter(self.folder.name)

    def add(self, record: dict[str, Any]) -> None:
        for key, value in record.items():
            if key != "images":
                self.writer.add_scalar(f"{self.name}/{key}", value, record["images"])
        self.writer.flush()
        for file in Path(self.folder.name).iterdir():
            self.store.write(f"tensorboard/{self.name}/{file.name}", file.read_bytes())


def write_metrics(store: Store, name: str, history: History) -> None:
    """Write `<name>/metrics.jsonl`: all records so far."""
    store.write(f"{name}/metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history).encode())


class Sampler:
    """Draws a picture of the stage at the start and at each tick, on one worker."""

    def __init__(self, name: str, plan: Plan, store: Store, draw: Callable[[], bytes]) -> None:
        self.name, self.plan, self.store, self.draw = name, plan, store, draw

    def start(self, stage: Stage, progress: Progress) -> None:
        """The untrained network, once."""
        if progress.images == 0:
            self._write(progress)

    def after_step(self, stage: Stage, progress: Progress, stats: dict[str, Tensor]) -> None:
        """The network as it is."""
        if self.plan.due(progress, self.plan.tick):
            self._write(progress)

    def _write(self, progress: Progress) -> None:
        with torch.no_grad():
            self.store.write(f"samples/{self.name}-{progress.images:09d}.png", self.draw())


class Evaluator:
    """Adds a measure to the history at the start, at equal distances and at the end, on one worker."""

    def __init__(self, name: str, plan: Plan, store: Store, history: History, measure: Callable[[], dict[str, Any]], say: Say) -> None:
        self.name, self.plan, self.store, self.history, self.measure, self.say = name, plan, store, history, measure, say

    def start(self, stage: Stage, progress: Progress) -> None:
        """The untrained network, once."""
        if progress.images == 0:
            self._add(progress)

    def after_step(self, stage: Stage, progress: Progress, stats: dict[str, Tensor]) -> None:
        """The network as it is."""
        if self.plan.evaluation_due(progress):
            self._add(progress)

    def _add(self, progress: Progress) -> None:
        with torch.no_grad():
            values = self.measure()
        self.history.append({"images": progress.images, **values})
        write_metrics(self.store, self.name, self.history)
        self.say(f"{self.name}: at {progress.images}  " + "  ".join(f"{key} {value:.4g}" for key, value in values.items()))


class Committer:
    """Commits the stage's state, on one worker: at each multiple of `plan.commit`, after each evaluation, at the end.

    The commit with the best `frechet` is never removed.
    """

    def __init__(self, commits: Commits, epoch: int, plan: Plan, history: History) -> None:
        self.commits, self.epoch, self.plan, self.history = commits, epoch, plan, history

    def start(self, stage: Stage, progress: Progress) -> None:
        """Nothing is new yet."""

    def after_step(self, stage: Stage, progress: Progress, stats: dict[str, Tensor]) -> None:
        """Commit where it is due."""
        if not self.plan.commit_due(progress):
            return
        measures = [record["frechet"] for record in self.history if record["images"] == progress.images and "frechet" in record]
        meta = {"complete": progress.images >= self.plan.end, "elapsed_s": progress.elapsed_s} | (
            {"frechet": measures[-1]} if measures else {}
        )
        files = {"state.pt": to_bytes(stage.state_dict()), "history.json": json.dumps(self.history).encode()}
        self.commits.write(progress.images, self.epoch, files, meta)
        best = best_commit(self.commits)
        self.commits.prune(keep_names=[best] if best else [])


def best_commit(commits: Commits) -> str | None:
    """Name of the commit with the smallest Frechet distance; None when none was measured."""
    measured = [commit for commit in commits.records() if "frechet" in commit.meta]
    return min(measured, key=lambda commit: float(commit.meta["frechet"])).name if measured else None
