"""Lines that workers say, printed by the driver and kept in the run's `logs/`, records of metrics, and notes that only the driver reads.

Ray's own forwarding prefixes every line and mixes in its internals; its logs stay in its session folder.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mvgan.storage.uri import Store
from mvgan.train.hooks import Look
from mvgan.train.outbox import Outbox


POLL_S = 0.5
KEEP_S = 30.0
"""Time between writes of the log, which object storage takes as a whole; a killed driver loses no more."""
STOP_POLL_S = 1.0
"""Time between two looks of a worker whether training shall end."""
LEAVE_S = 60.0
"""Most that the end of a stage waits for its log to be written."""


class _Lines:
    """Holds lines, records and notes between the workers and the driver."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.records: list[tuple[int, dict[str, float]]] = []
        self.notes: list[Any] = []
        self.why = ""

    def add(self, line: str) -> None:
        self.lines.append(line)

    def record(self, images: int, record: dict[str, float]) -> None:
        self.records.append((images, record))

    def take(self) -> tuple[list[str], list[tuple[int, dict[str, float]]]]:
        taken = self.lines, self.records
        self.lines, self.records = [], []
        return taken

    def note(self, value: Any) -> None:
        self.notes.append(value)

    def noted(self) -> list[Any]:
        return self.notes

    def stop(self, why: str) -> None:
        self.why = why

    def stopped(self) -> str:
        return self.why


class Console:
    """Where a worker sends what it has to say; travels to workers like any value."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        lines: Any = ray.remote(num_cpus=0)(_Lines)
        self.actor: Any = lines.options(scheduling_strategy=here).remote()

    def say(self, line: str) -> None:
        """Send one line. Without the driver's node it goes to this process's own log: training need not end for it."""
        try:
            ray.get(self.actor.add.remote(line))
        except ray.exceptions.RayActorError:
            print(line, flush=True)

    def tell(self, images: int, record: Mapping[str, float]) -> None:
        """Send a record of metrics, without waiting for it to arrive: it is in the run's history too."""
        self.actor.record.remote(images, dict(record))

    def note(self, value: Any) -> None:
        """Leave a value for the driver, or, without its node, in this process's own log."""
        try:
            ray.get(self.actor.note.remote(value))
        except ray.exceptions.RayActorError:
            print(value, flush=True)

    def noted(self) -> list[Any]:
        """All values left so far."""
        notes: list[Any] = ray.get(self.actor.noted.remote())
        return notes

    def stop(self, why: str) -> None:
        """Ask the workers to commit and to end."""
        ray.get(self.actor.stop.remote(why))

    def stop_asked(self) -> Callable[[], str]:
        """What tells a worker why it shall commit and end, empty while it shall go on. Asks the driver's node once in STOP_POLL_S."""
        asked_at = -math.inf
        why = ""

        def ask() -> str:
            nonlocal asked_at, why
            if not why and time.monotonic() >= asked_at + STOP_POLL_S:
                try:
                    why = ray.get(self.actor.stopped.remote())
                except ray.exceptions.RayActorError:
                    why = ""  # without the driver's node nobody asks any more
                asked_at = time.monotonic()
            return why

        return ask

    def forward_logging(self) -> None:
        """Send this process's log records too: warnings of commits and data."""
        handler = _Handler(self)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logging.getLogger("mvgan").addHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.say(self.format(record))


@contextmanager
def console(store: Store, name: str, told: Look) -> Iterator[Console]:
    """A console whose lines are printed until the block ends, and then kept as `logs/<name>.log`; `told` is given its records."""
    lines: list[str] = []
    target = Console()
    ended = threading.Event()
    log = Outbox(store, _print)
    heard = True

    def tell(line: str) -> None:
        nonlocal heard
        try:
            if heard:
                _print(line)
        except BrokenPipeError:  # whoever read has left; the log goes on
            heard = False

    def pump() -> None:
        kept_at = 0.0
        while True:
            last = ended.is_set()
            said, records = ray.get(target.actor.take.remote())
            for images, record in records:
                told(images, record)
            for line in said:
                lines.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
                tell(line)
            if last or time.monotonic() > kept_at + KEEP_S:
                log.put(f"logs/{name}.log", "".join(lines).encode())
                kept_at = time.monotonic()
            if last:
                return
            ended.wait(POLL_S)

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        yield target
    finally:
        ended.set()
        thread.join()
        log.leave(LEAVE_S)
        ray.kill(target.actor)


def _print(line: str) -> None:
    print(line, flush=True)
