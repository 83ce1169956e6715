"""Watches that a worker goes on, and ends it, with its stacks kept, when it does not."""

import faulthandler
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from torch import Tensor

from mvgan.train.ranks import Ranks
from mvgan.train.session import Batches


TELL_S = 30.0
"""Time to keep the stacks and say where: storage may be what hangs, and the worker has to end all the same."""

EXIT_CODE = 75
"""Exit status of a process that its watchdog has ended."""


def stacks() -> bytes:
    """What every thread of this process is doing, as text."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def end_process() -> None:
    """End this process at once: a thread that hangs in a collective can be neither interrupted nor joined."""
    os._exit(EXIT_CODE)


class Watchdog:
    """Ends this process when it finishes no step for `limit_s` seconds, counted from entering the block.

    A step is finished when the next batch is asked for. `tell` gets the stacks and keeps them; it has TELL_S for it.
    """

    def __init__(self, limit_s: float, tell: Callable[[bytes], None], end: Callable[[], None] = end_process) -> None:
        self.limit_s, self.tell, self.end = limit_s, tell, end
        self._ended = threading.Event()
        self._beat_at = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._beat_at = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def watched(self, batches: Batches) -> Batches:
        """The same batches; asking for one counts as a finished step."""

        def watched_batches(images: int, ranks: Ranks) -> Iterator[Tensor]:
            for batch in batches(images, ranks):
                yield batch
                self._beat_at = time.monotonic()

        return watched_batches

    def _watch(self) -> None:
        while time.monotonic() < self._beat_at + self.limit_s:
            if self._ended.wait(min(1.0, self.limit_s / 10)):
                return
        teller = threading.Thread(target=self.tell, args=(stacks(),), daemon=True)
        teller.start()
        teller.join(TELL_S)
        if not self._ended.is_set():  # it may have gone on meanwhile, to its end
            self.end()
