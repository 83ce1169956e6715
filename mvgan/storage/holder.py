"""Who is at work on a run or a shard set: a second driver is refused, and told of the first.

Below the folder, in `drivers/`:

- `00001.json`: a driver's claim, made by `create`, so each number has one owner: host, process, and since when, for people.
- `00001.beat.json`: a number that the driver raises every few seconds.
- `00001.end.json`: the driver has left.

A newcomer looks at the newest claim. On the same machine the process table tells whether that very process lives, so
that a killed driver's command can be given again at once. From another machine the beat is watched; clocks are not
compared. What protects the data from a driver that was thought dead are the epochs of the commits, not this.
"""

import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mvgan.config import InputError
from mvgan.storage.store import Store


FORMAT_VERSION = 1
FOLDER = "drivers"
BEAT_S = 5.0
SILENT_BEATS = 3
"""A driver on another machine that misses so many beats is taken for dead."""
KEPT = 3
"""How many of the newest claims are kept, beside the newest one that tells what the folder is for."""
CLEANING = "gc"
"""The verb that holds a folder only to clean it: that tells nothing of what the folder is for."""
LEAVE_S = 30.0
"""Most that leaving waits for the mark of the end; without it the next driver finds out by itself."""

logger = logging.getLogger(__name__)


@contextmanager
def held(store: Store, what: str, silence_s: float = 0.0) -> Iterator[None]:
    """Hold the folder `store` for the work `what`, the name of a verb.

    `silence_s` is the least time for which the beat of a driver on another machine is watched.
    Raises InputError, naming the holder, when another driver is at work there.
    """
    number = _take(store, what, silence_s)
    beat = _Beat(store, number)
    beat.start()
    try:
        yield
    finally:
        beat.leave()


def refuse_held(store: Store, silence_s: float = 0.0) -> int:
    """Raise InputError, naming the holder, when a driver is at work at `store`; writes nothing.

    Returns the number of the newest claim, 0 when there was none.
    """
    newest = _newest(store)
    if newest and not store.exists(f"{FOLDER}/{newest:05d}.end.json"):
        _refuse_living(store, newest, silence_s)
    return newest


@dataclass(frozen=True)
class Holder:
    """The newest driver of a folder, as its files show it to one who looks once and decides nothing by it."""

    what: str
    """Its verb."""
    who: str
    """The same with host, process and since when, for people."""
    left: bool
    """Whether it has ended by itself, well or not."""
    silent_s: float
    """Seconds since its newest beat."""
    beat_s: float
    """Seconds from beat to beat."""

    @property
    def dead_s(self) -> float:
        """Seconds of silence after which another would take it for dead."""
        return SILENT_BEATS * self.beat_s

    @property
    def at_work(self) -> bool:
        """Whether it has neither left nor been silent for so long."""
        return not self.left and self.silent_s < self.dead_s


def holder_of(store: Store) -> Holder | None:
    """The newest driver at `store` but those that only clean, None when there was none; reads the files alone.

    Raises InputError when a claim is damaged.
    """
    try:
        number = _newest_at_work(store)
        claim = _read_claim(store, number) if number else None
    except FileNotFoundError:
        return holder_of(store)  # just removed, with newer ones there
    if claim is None:
        return None
    ages = [store.age_s(f"{FOLDER}/{number:05d}{ending}") for ending in (".beat.json", ".json")]  # the claim is there before the beat
    silent_s = min(age for age in ages if age is not None)
    return Holder(claim["what"], _who(claim), store.exists(f"{FOLDER}/{number:05d}.end.json"), silent_s, float(claim["beat_s"]))


def _take(store: Store, what: str, silence_s: float) -> int:
    """Become the owner of the newest claim; returns its number."""
    while True:
        number = refuse_held(store, silence_s) + 1
        if not store.create(f"{FOLDER}/{number:05d}.json", json.dumps(_claim(number, what), indent=1).encode()):
            continue  # another newcomer was first, and is asked like any other holder
        if _newest(store) == number:
            _remove_old(store, number, what)
            return number
        # Old numbers are removed, so one who paused since it looked may have made an old number anew.
        store.delete(f"{FOLDER}/{number:05d}.json")


def _newest(store: Store) -> int:
    """The number of the newest claim, 0 when there is none."""
    return max(_numbers(store), default=0)


def _numbers(store: Store) -> list[int]:
    """The numbers of all claims that are kept."""
    return [int(m[1]) for path in store.list(f"{FOLDER}/") if (m := re.fullmatch(rf"{FOLDER}/(\d+)\.json", path))]


def _newest_at_work(store: Store) -> int:
    """The number of the newest claim but those that only clean, 0 when there is none. Raises what `_read_claim` does."""
    return next((number for number in sorted(_numbers(store), reverse=True) if _read_claim(store, number)["what"] != CLEANING), 0)


def _remove_old(store: Store, number: int, what: str) -> None:
    """Remove the claims before the KEPT newest, but what tells what the folder is for, however often it was cleaned since."""
    kept = _newest_at_work(store) if what == CLEANING else number
    for path in store.list(f"{FOLDER}/"):
        match = re.match(rf"{FOLDER}/(\d+)\.", path)
        if match and int(match[1]) <= number - KEPT and int(match[1]) != kept:
            store.delete(path)


def _claim(number: int, what: str) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "number": number,
        "nonce": secrets.token_hex(8),  # keeps the claims of rivals apart, which `create` asks for
        "what": what,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "pid_start": _start_of(os.getpid()),
        "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "beat_s": BEAT_S,
    }


def _machine() -> str:
    """The same for all processes that see each other in one process table, and for no others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() + " " + os.readlink("/proc/self/ns/pid")


def _start_of(pid: int) -> int | None:
    """When process `pid` began, in clock ticks since the machine did; None when it has ended or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name of the program, in parentheses, may hold anything; the state and 19 fields later the start follow it.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _is_hidden(pid: int) -> bool:
    """Whether there is a process `pid` of another user, which a machine may keep out of the process table."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return not Path(f"/proc/{pid}").exists()
    return False


def _refuse_living(store: Store, number: int, silence_s: float) -> None:
    """Return when the owner of claim `number` has ended; raises InputError when it lives."""
    try:
        claim = _read_claim(store, number)
    except FileNotFoundError:
        return  # just removed, with newer ones there
    who, pid, watch_s = _who(claim), claim["pid"], max(SILENT_BEATS * float(claim["beat_s"]), silence_s)
    if claim["machine"] == _machine() and not _is_hidden(pid):
        lives = _start_of(pid) == claim["pid_start"]
    else:
        logger.warning("%s was last held by %s: watching for %.0f s whether it is alive", store.uri, who, watch_s)
        lives = _beats(store, number, watch_s)
    if lives:
        raise InputError(f"{store.uri} is held by {who}; wait until it has ended, or stop it there (kill {pid})")
    logger.warning("%s was held by %s, which has died; going on in its place", store.uri, who)


def _read_claim(store: Store, number: int) -> dict[str, Any]:
    """Raises FileNotFoundError, and InputError when it is damaged."""
    path = f"{FOLDER}/{number:05d}.json"
    try:
        claim: dict[str, Any] = json.loads(store.read(path))
        float(claim["beat_s"])
        if missing := {"what", "host", "machine", "pid", "pid_start", "since"} - claim.keys():
            raise KeyError(*sorted(missing))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{store.uri}/{path} is damaged ({error}); delete it if no other driver is at work there") from None
    return claim


def _who(claim: dict[str, Any]) -> str:
    return f"`{claim['what']}` on host {claim['host']}, pid {claim['pid']}, since {claim['since']}"


def _beats(store: Store, number: int, watch_s: float) -> bool:
    """Whether the beat of claim `number` changes within `watch_s`; an end meanwhile is no beat."""
    first = _read(store, f"{FOLDER}/{number:05d}.beat.json")
    end = time.monotonic() + watch_s
    while time.monotonic() < end:
        time.sleep(min(1.0, watch_s / 10))
        if store.exists(f"{FOLDER}/{number:05d}.end.json"):
            return False
        if _read(store, f"{FOLDER}/{number:05d}.beat.json") != first:
            return True
    return False


def _read(store: Store, path: str) -> bytes | None:
    try:
        return store.read(path)
    except FileNotFoundError:
        return None


class _Beat(threading.Thread):
    """Shows that this driver lives, until it leaves. A store that cannot be written is no reason to end the work."""

    def __init__(self, store: Store, number: int) -> None:
        super().__init__(name="mvgan-beat", daemon=True)
        self._store, self._number = store, number
        self._leaving = threading.Event()
        self._overtaken = False

    def run(self) -> None:
        """Beat until `leave`."""
        count = 0
        while not self._leaving.is_set():
            count += 1
            self._try(f"{FOLDER}/{self._number:05d}.beat.json", {"count": count})
            self._leaving.wait(BEAT_S)
        self._try(f"{FOLDER}/{self._number:05d}.end.json", {"count": count})

    def leave(self) -> None:
        """Mark the end. Waits LEAVE_S at most, as a store out of reach must not keep the driver."""
        self._leaving.set()
        self.join(LEAVE_S)
        if self.is_alive():
            logger.warning("%s: the end of this driver could not be marked; the next one finds out by itself", self._store.uri)

    def _try(self, path: str, content: dict[str, Any]) -> None:
        try:
            self._store.write(path, json.dumps(content).encode())
            self._look()
        except Exception as error:  # of whatever kind: a thread that ends by it would look like a dead driver
            logger.warning("%s/%s could not be written: %s", self._store.uri, path, error)

    def _look(self) -> None:
        newest = _newest(self._store)
        if newest > self._number and not self._overtaken:
            self._overtaken = True
            claim = json.loads(self._store.read(f"{FOLDER}/{newest:05d}.json"))
            logger.error("%s has been taken over by `%s` on host %s, pid %s", self._store.uri, claim["what"], claim["host"], claim["pid"])
