"""A run's metrics on a tracking server, told beside training: MLflow or Weights & Biases, by `--track`.

Training neither waits for a tracker nor ends when it fails. What a tracker is told comes from the history, which is in the commits: a run
that goes on tells what comes after the last images that the tracker was told of, so each step is told once.
"""

import itertools
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import Tensor

from mvgan.train.hooks import History, Say
from mvgan.train.outbox import one_line
from mvgan.train.stage import Stage
from mvgan.train.state import Progress


RETRY_S = 30.0
"""Pause after a tracker has failed."""

SECRET = re.compile(r"(KEY|TOKEN|PASSWORD|SECRET)$")
"""Names of environment variables whose values are told to nobody."""


class Tracker(Protocol):
    """One stage of a run, as a tracking server knows it. Each call may raise whatever the tracker's library does."""

    def start(self) -> int:
        """Begin the tracker's run, or go on with the one begun before; returns the images up to which it was told of the stage, or -1."""
        ...

    def record(self, images: int, figures: dict[str, float]) -> None:
        """Tell figures as they were after `images`, more than of any record before."""
        ...

    def end(self, complete: bool) -> None:
        """The stage is complete, or has ended by an error."""
        ...


class Tracking:
    """A hook that tells a tracker each new record of the history, in a thread of its own; comes after all hooks that add records.

    A tracker that fails is said once; it is tried again at later records, with all that it was not told.
    """

    def __init__(self, name: str, make: Callable[[], Tracker], history: History, say: Say, retry_s: float = RETRY_S) -> None:
        """name: of the tracker, for people."""
        self.name, self.make, self.history, self.say, self.retry_s = name, make, history, say, retry_s
        self._known, self._complete, self._said = 0, False, False
        self._new, self._over = threading.Event(), threading.Event()
        # Not of a pool: those are waited for when the process ends, and this one may hang in a tracker's library.
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self, stage: Stage, progress: Progress) -> None:
        """Tell what the tracker missed of earlier processes."""
        self._known = len(self.history)
        self._new.set()
        self._thread.start()

    def after_step(self, stage: Stage, progress: Progress, stats: dict[str, Tensor]) -> None:
        """Have new records told."""
        if len(self.history) > self._known:
            self._known = len(self.history)
            self._new.set()

    def leave(self, complete: bool, seconds: float) -> None:
        """Have the rest told and the tracker's run ended, for so long at most; says so when time was too short."""
        if not self._thread.is_alive():
            return
        self._complete = complete
        self._over.set()
        self._new.set()
        self._thread.join(seconds)
        if self._thread.is_alive() and not self._said:
            self.say(f"{self.name} has not taken everything within {seconds:g} s; going on without it")

    def _work(self) -> None:
        """In the thread: tell what is new, until the stage is over."""
        tracker, told = None, -1
        while True:
            self._new.wait()
            self._new.clear()
            over = self._over.is_set()
            try:
                if tracker is None:
                    tracker = self.make()
                    told = tracker.start()
                for images, figures in rows(self.history[: self._known]):
                    if images > told:
                        tracker.record(images, figures)
                        told = images
                if over:
                    tracker.end(self._complete)
            except Exception as error:  # a tracker's library has classes of its own
                tracker = None  # it tells anew what it has: the answer alone may have been lost
                self._warn(error)
                self._over.wait(self.retry_s)
            if over:
                return

    def _warn(self, error: Exception) -> None:
        if not self._said:
            self.say(f"{self.name} takes no metrics ({cleaned(one_line(error))}); training goes on, and it is told the rest once it does")
        self._said = True


def rows(history: History) -> Iterator[tuple[int, dict[str, float]]]:
    """The records of a history, those after the same images as one."""
    for images, records in itertools.groupby(history, key=lambda record: int(record["images"])):
        merged: dict[str, Any] = {}
        for record in records:
            merged |= {key: float(value) for key, value in record.items() if key != "images"}
        yield images, merged


def cleaned(words: str) -> str:
    """`words` without what a tracker's library may have put there of its credentials."""
    for name, value in os.environ.items():
        if SECRET.search(name) and value:
            words = words.replace(value, "***")
    return re.sub(r"://[^/@\s]*@", "://", words)
