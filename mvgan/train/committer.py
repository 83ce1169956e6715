"""Commits of a stage's state, written beside training from a copy of it."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mvgan.config import Ended
from mvgan.storage.commit import Commit, Commits, Conflict, Superseded
from mvgan.train.guard import SKIPPED, NonFinite, place_of
from mvgan.train.hooks import History, Say
from mvgan.train.outbox import Outbox, one_line
from mvgan.train.stage import Plan, Stage
from mvgan.train.state import UNITS, Progress, snapshot, to_bytes


SAY_S = 1.0
"""A wait for the storage that is worth a line."""

RETRY_S = 2.0
"""Pause before the last commit of a stage is tried again; doubled each time."""


class MissedCommits(Ended):
    """The storage has refused so many commits that training ended."""


class Stopped(Ended):
    """Training was asked to end, and has committed."""


@dataclass(frozen=True)
class _Snapshot:
    """What one commit holds."""

    images: int
    state: dict[str, Any]
    history: bytes
    meta: dict[str, Any]


@dataclass(frozen=True)
class _Outcome:
    """How a write ended: with a commit, or with the storage's reason why there is none."""

    images: int
    seconds: float
    commit: Commit | None
    reason: str = ""


class Committer:
    """Commits the stage's state, on one worker: at each multiple of `plan.commit`, after each evaluation, at the end.

    The state is copied to the CPU while training stands still; a thread serialises, hashes and writes the copy, one at a
    time, and prunes. A commit that falls due meanwhile waits for the one before. What the storage refuses is a missed
    commit: an alarm, and `max_missed` in a row raise MissedCommits, as does a storage for which one step has waited
    `patience_s`. The last one is there when training ends, or raises Stopped once `stop` has given a reason to end.
    Superseded and Conflict, and whatever else went wrong in the thread, are raised at the next step or by `close`.
    The commit with the best `frechet` is never removed.
    """

    def __init__(
        self, name: str, commits: Commits, epoch: int, plan: Plan, history: History, outbox: Outbox, say: Say, max_missed: int,
        last: Commit | None, patience_s: float, stop: Callable[[], str] = lambda: "",
    ) -> None:  # fmt: skip
        """name: the stage. last: the commit that training went on from. patience_s: the most that one step waits. stop: as of Worker."""
        self.name, self.commits, self.epoch, self.plan, self.history = name, commits, epoch, plan, history
        self.outbox, self.say, self.max_missed, self.last, self.patience_s = outbox, say, max_missed, last, patience_s
        self.stop, self.missed_in_a_row, self._reason = stop, 0, ""
        self._figures: dict[str, float] = {"commit_wait_s": 0.0, "missed_commits": 0.0}
        self._writing: Future[_Outcome] | None = None
        self._thread = ThreadPoolExecutor(1, "committer")

    def start(self, stage: Stage, progress: Progress) -> None:
        """Nothing is new yet."""

    def after_step(self, stage: Stage, progress: Progress, stats: dict[str, Tensor]) -> None:
        """Commit where it is due, and where training shall end. Raises what a write has met, MissedCommits included, and Stopped."""
        if self._writing is not None and self._writing.done():
            self._collect(time.monotonic())
        why = self.stop()
        if not why and not self.plan.commit_due(progress):
            return
        at_end = progress.images >= self.plan.end
        if SKIPPED in stats and stats[SKIPPED] and not at_end:
            # The step before may have ruined the weights, which are still finite; a rollback must not come back to that.
            self._say(f"no commit at {progress.images}, as steps were just left out")
            return
        started = time.monotonic()
        deadline = started + self.patience_s
        self._await_write(progress.images, deadline)
        copied = self._snapshot(stage, progress)
        if at_end or why:
            self._finish(copied, deadline)
        else:
            self._writing = self._thread.submit(self._write, copied)
        self._figures["commit_wait_s"] += time.monotonic() - started
        if why and not at_end:
            raise Stopped(f"{self.name}: {why}; committed at {progress.images} {UNITS[self.name]}, and the same command goes on from there")

    def figures(self) -> dict[str, float]:
        """Metrics since the last call: seconds that training stood still and that the newest write took, commits missed."""
        figures, self._figures = self._figures, {"commit_wait_s": 0.0, "missed_commits": 0.0}
        return figures

    def close(self) -> None:
        """Wait for the commit that is being written, unless it is late already, and end the thread. Raises what the write has met."""
        try:
            self._take(time.monotonic() + self.patience_s)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _await_write(self, images: int, deadline: float) -> None:
        started = time.monotonic()
        self._collect(deadline)
        waited = time.monotonic() - started
        if waited >= SAY_S:
            self._say(
                f"the commit at {images} waited {waited:.1f} s for the one before to be written: "
                "the interval of commits is too short for this storage"
            )

    def _snapshot(self, stage: Stage, progress: Progress) -> _Snapshot:
        measures = [record["frechet"] for record in self.history if record["images"] == progress.images and "frechet" in record]
        meta = {"complete": progress.images >= self.plan.end, "elapsed_s": progress.elapsed_s} | (
            {"frechet": measures[-1]} if measures else {}
        )
        return _Snapshot(progress.images, snapshot(stage.state_dict()), json.dumps(self.history).encode(), meta)

    def _finish(self, copied: _Snapshot, deadline: float) -> None:
        """Write the last commit, trying up to `max_missed` times while patience lasts. Raises MissedCommits."""
        # Nobody would write these files after a restart, as the stage is complete then; the commit counts more.
        self.outbox.flush((deadline - time.monotonic()) / 3)
        for tries in range(1, self.max_missed + 1):
            self._writing = self._thread.submit(self._write, copied)
            self._take(deadline)
            if not self.missed_in_a_row:
                return
            pause = RETRY_S * 2 ** (tries - 1)
            if tries == self.max_missed or time.monotonic() + pause > deadline:
                raise self._stopped(f"the last commit could not be written in {tries} tries", self._reason)
            self._say(f"the last commit is tried again in {pause:g} s")
            time.sleep(pause)

    def _collect(self, deadline: float) -> None:
        """Wait for the write under way, if there is one. Raises MissedCommits when too many have failed in a row."""
        self._take(deadline)
        if self.missed_in_a_row >= self.max_missed:
            raise self._stopped(f"{self.missed_in_a_row} commits in a row could not be written", self._reason)

    def _take(self, deadline: float) -> None:
        """Wait for the write under way, if there is one, and note how it ended. Raises MissedCommits when it is late."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        wait((writing,), max(0.0, deadline - time.monotonic()))
        if not writing.done():
            raise self._stopped("a commit was not written in time", f"the storage took more than {self.patience_s:g} s of one step")
        outcome = writing.result()
        self._figures["commit_write_s"] = outcome.seconds
        if outcome.commit is not None:
            self.last, self.missed_in_a_row = outcome.commit, 0
            return
        self.missed_in_a_row, self._reason = self.missed_in_a_row + 1, outcome.reason
        self._figures["missed_commits"] += 1
        self._say(
            f"ALARM: the commit at {outcome.images} was missed ({self.missed_in_a_row} in a row, {self.max_missed} end the run): "
            f"{outcome.reason}; the last good one is {place_of(self.commits, self.last)}"
        )

    def _stopped(self, what: str, reason: str) -> MissedCommits:
        return MissedCommits(
            f"{self.name}: {what}: {reason}; the same command goes on from {place_of(self.commits, self.last)} "
            "once the storage takes data again"
        )

    def _say(self, what: str) -> None:
        self.say(f"{self.name}: {what}")

    def _write(self, copied: _Snapshot) -> _Outcome:
        """In the thread: make the commit, then remove old ones. Raises NonFinite, Superseded, Conflict."""
        started = time.monotonic()
        if not all(bool(tensor.isfinite().all()) for tensor in _tensors(copied.state)):
            raise NonFinite(f"{self.name}: weights or their moments not finite after {copied.images} {UNITS[self.name]}")
        files = {"state.pt": to_bytes(copied.state), "history.json": copied.history}
        try:
            commit = self._commit(copied, files)
        except (Superseded, Conflict):
            raise
        except Exception as error:  # a storage's library has classes of its own
            return _Outcome(copied.images, time.monotonic() - started, None, one_line(error))
        self._prune()
        return _Outcome(copied.images, time.monotonic() - started, commit)

    def _commit(self, copied: _Snapshot, files: dict[str, bytes]) -> Commit:
        try:
            return self.commits.write(copied.images, self.epoch, files, copied.meta)
        except Conflict:
            # An earlier try of the last commit may have made its record, and the answer got lost.
            digest = hashlib.sha256(files["state.pt"]).hexdigest()
            for commit in self.commits.records():
                if (commit.images, commit.epoch, commit.files["state.pt"]["sha256"]) == (copied.images, self.epoch, digest):
                    return commit
            raise

    def _prune(self) -> None:
        try:
            self.commits.prune(keep_names=[commit.name for commit in measured_commits(self.commits)[:1]])
        except Exception as error:  # the commit is there all the same, and the next one prunes again
            self._say(f"old commits could not be removed: {one_line(error)}")


def measured_commits(commits: Commits) -> list[Commit]:
    """The commits whose Frechet distance was measured, the one with the smallest first; their files unverified."""
    return sorted((commit for commit in commits.records() if "frechet" in commit.meta), key=lambda commit: float(commit.meta["frechet"]))


def _tensors(state: Any) -> Iterator[Tensor]:
    """All floating-point tensors of a state dictionary."""
    if isinstance(state, Tensor):
        if state.is_floating_point():
            yield state
    elif isinstance(state, dict | list | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from _tensors(part)
