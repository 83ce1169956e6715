"""What happens beside training: log lines and metrics, sample grids, the Frechet distance. Commits are in committer.py."""

import json
import math
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar
from torch import Tensor

from mvgan.config import InputError
from mvgan.storage.store import Store
from mvgan.train.exposed import EXPOSED, LAG, SLOWEST, WORKERS, straggler
from mvgan.train.guard import SECONDS, SKIPPED
from mvgan.train.outbox import Outbox
from mvgan.train.ranks import Ranks
from mvgan.train.stage import Plan, Stage
from mvgan.train.state import UNITS, Progress


History = list[dict[str, Any]]
"""The metrics of a stage, one record a tick; part of each commit, so that a resumed run neither repeats nor loses one."""


Say = Callable[[str], None]
"""Takes a line for people to read."""


Look = Callable[[int, Mapping[str, float]], None]
"""Looks at what was measured after so many images."""


def both(first: Look, second: Look) -> Look:
    """One after the other."""

    def look(images: int, measured: Mapping[str, float]) -> None:
        first(images, measured)
        second(images, measured)

    return look


Figures = Callable[[], dict[str, float]]
"""Gives what another hook has measured since the last call."""


class Ticker:
    """Averages what the steps return, and every `plan.tick` images, and before each commit, makes a record of it."""

    def __init__(self, plan: Plan, ranks: Ranks, record: Callable[[Progress, Progress, dict[str, float]], None] | None) -> None:
        """record: takes the progress at the record before and now, and the averages; None on all workers but the first."""
        self.plan, self.ranks, self.record = plan, ranks, record
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.last = Progress()

    def start(self, stage: Stage, progress: Progress) -> None:
        """Note from where the rate counts."""
        self.last = progress

    def after_step(self, stage: Stage, progress: Progress, stats: dict[str, Tensor]) -> None:
        """Add up; at a tick average over the workers and record. Until then nothing waits for the device. Raises NonFinite."""
        for name, value in stats.items():
            known = value.isfinite()  # a phase that was left out has no figures
            self.sums[name] = self.sums.get(name, 0) + torch.where(known, value, 0)
            self.counts[name] = self.counts.get(name, 0) + known
        # A commit ends an average too, so that a run which goes on from it averages over the same steps.
        if self.plan.due(progress, self.plan.tick) or self.plan.commit_due(progress):
            times = stage.look(progress.images)
            averages = self._averages(times)
            if self.record is not None:
                self.record(self.last, progress, averages)
            self.last = progress

    def _averages(self, times: Mapping[str, float]) -> dict[str, float]:
        """Of all steps since the last call and all workers, steps left out as their sum; a phase that was always left out has none."""
        means = {name: total if name == SKIPPED else total / self.counts[name] for name, total in self.sums.items()}
        device = next(iter(self.sums.values())).device
        self.sums, self.counts = {}, {}
        averages = self.ranks.average(means | {name: torch.full([], seconds, device=device) for name, seconds in times.items()})
        if EXPOSED in times:
            waits, shards = zip(*self.ranks.gather([times[EXPOSED], len(self.ranks.hosted)], device), strict=True)
            averages |= straggler(waits, shards)
        return {name: value for name, value in averages.items() if not math.isnan(value)}


class Recorder:
    """Writes a record of metrics: to the history and its file, to TensorBoard, and as a line."""

    def __init__(
        self, name: str, plan: Plan, outbox: Outbox, history: History, figures: Figures, say: Say, start: Progress, look: Look
    ) -> None:
        self.name, self.unit, self.plan, self.outbox, self.history = name, UNITS[name], plan, outbox, history
        self.figures, self.say, self.look = figures, say, look
        self.board = _Board(outbox, name, start)

    def __call__(self, last: Progress, progress: Progress, averages: dict[str, float]) -> None:
        """Record the averages over the steps from `last` to `progress`."""
        rate = (progress.images - last.images) / max(progress.elapsed_s - last.elapsed_s, 1e-9)
        record = {"images": progress.images, "elapsed_s": round(progress.elapsed_s, 1), f"{self.unit}_per_s": round(rate, 2), **averages}
        record |= self.figures() | peak_memory()
        self.history.append(record)
        write_metrics(self.outbox, self.name, self.history)
        self.board.add(record)
        eta = (self.plan.end - progress.images) / rate
        told = "  ".join(f"{name} {value:.4g}" for name, value in averages.items() if _told(name) and (value or name != SKIPPED))
        self.say(
            f"{self.name}: {progress.images}/{self.plan.end} {self.unit}  {rate:.1f} {self.unit}/s  "
            f"{progress.elapsed_s:.0f} s  ETA {eta:.0f} s  {told}"
        )
        self.look(progress.images, record)

    def close(self) -> None:
        """Let go of the file of events; nothing is recorded after it."""
        self.board.close()


def _told(name: str) -> bool:
    """Whether a metric is in the lines of the log, which are for reading; all are in the files."""
    return not name.endswith(("_grad_norm", SECONDS)) and name not in (SLOWEST, LAG, WORKERS)


def peak_memory() -> dict[str, float]:
    """Most memory that this process has had so far, in MB, and that its tensors have had on the GPU."""
    found = {"peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return found


class _Board:
    """TensorBoard events; written to a scratch folder and copied, since object storage has no append."""

    def __init__(self, outbox: Outbox, name: str, start: Progress) -> None:
        self.outbox, self.name = outbox, name
        self.folder = tempfile.TemporaryDirectory(prefix="mvgan-")
        # Not SummaryWriter, whose flush leaves out what its own thread has not written yet. TensorBoard reads files in the
        # order of their names, in which there are whole seconds only.
        self.writer = EventsWriter(f"{self.folder.name}/events", f".{time.time_ns()}")
        # What an earlier process told of later steps than it committed is told again by this one.
        self.writer.write_event(Event(wall_time=time.time(), step=start.images + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, record: dict[str, Any]) -> None:
        for key, value in record.items():
            if key != "images":
                self.writer.write_event(Event(wall_time=time.time(), step=record["images"], summary=scalar(f"{self.name}/{key}", value)))
        self.writer.flush()
        for file in Path(self.folder.name).iterdir():
            self.outbox.put(f"tensorboard/{self.name}/{file.name}", file.read_bytes())

    def close(self) -> None:
        self.writer.close()
        self.folder.cleanup()


def write_metrics(outbox: Outbox, name: str, history: History) -> None:
    """Write `<name>/metrics.jsonl`: all records so far."""
    outbox.put(f"{name}/metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history).encode())


def read_metrics(store: Store, name: str) -> History:
    """All records that `write_metrics` has written so far. Raises InputError when the file is damaged."""
    path = f"{name}/metrics.jsonl"
    try:
        return [json.loads(line) for line in store.read(path).splitlines()]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise InputError(
            f"{store.uri}/{path} is damaged ({error}); put history.json of the newest commit in its place, a record a line"
        ) from None


class Sampler:
    """Draws pictures of the stage at the start and at each tick, on one worker."""

    def __init__(self, name: str, plan: Plan, outbox: Outbox, draw: Callable[[], Mapping[str, bytes]]) -> None:
        """draw: gives files by their endings, `.png` and so on."""
        self.name, self.plan, self.outbox, self.draw = name, plan, outbox, draw

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
            for ending, data in self.draw().items():
                self.outbox.put(f"samples/{self.name}-{progress.images:09d}{ending}", data)


class Evaluator:
    """Adds a measure to the history at the start, at equal distances and at the end, on one worker."""

    def __init__(
        self, name: str, plan: Plan, outbox: Outbox, history: History, measure: Callable[[], dict[str, Any]], say: Say, look: Look
    ) -> None:
        self.name, self.plan, self.outbox, self.history = name, plan, outbox, history
        self.measure, self.say, self.look = measure, say, look

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
        write_metrics(self.outbox, self.name, self.history)
        self.say(f"{self.name}: at {progress.images}  " + "  ".join(f"{key} {value:.4g}" for key, value in values.items()))
        self.look(progress.images, values)
