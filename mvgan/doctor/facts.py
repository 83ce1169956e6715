"""What one machine measures of itself, and of what it may do on the storage."""

import functools
import hashlib
import importlib
import os
import platform
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mvgan
from mvgan.config import InputError
from mvgan.storage.endure import SKEW_S
from mvgan.storage.uri import Store, Unreachable, open_store


PACKAGES = ("torch", "ray", "numpy", "av")
"""Whose versions must be the same everywhere."""
OWN_CODE = "mvgan's code"
MEMORY_FOLDER = "/dev/shm"
PROBE_BYTES = 1 << 20
"""What is written to the spill disk to see whether it takes anything."""
ROUND_TRIPS = 5


@dataclass(frozen=True)
class Disk:
    """A file system, by a folder in it; bytes."""

    path: str
    total: int
    free: int
    refused: str = ""
    """Why a file could not be written there; empty where it could, or where nobody tried."""


def versions() -> dict[str, str]:
    """Version of Python and of each package, as this process imports them, and a hash of mvgan's own code."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}, OWN_CODE: _own_code()}


def _version(name: str) -> str:
    try:
        return str(importlib.import_module(name).__version__)
    except (ImportError, AttributeError, OSError) as error:  # the last one for a library that does not load
        return f"none: {' '.join(str(error).split())}"


def _own_code() -> str:
    """The first digits of the SHA-256 of all names and contents."""
    root, digest = Path(str(mvgan.__file__)).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def disk(path: str, write: bool = False) -> Disk:
    """The file system of a folder; with `write` a file is written there and removed."""
    try:
        usage = shutil.disk_usage(path)
    except OSError as error:
        return Disk(path, 0, 0, error.strerror or str(error))
    return Disk(path, usage.total, usage.free, _refusal(path) if write else "")


def _refusal(path: str) -> str:
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return ""


@dataclass(frozen=True)
class Refusal:
    """Something that a storage does not let this machine do."""

    what: tuple[str, ...]
    reason: str
    advice: str


@dataclass(frozen=True)
class Access:
    """What a machine may do on a storage."""

    uri: str
    ahead_s: float | None = None
    """How far its clock is ahead of the storage's; None where the storage has none of its own, or did not answer."""
    round_trip_s: float | None = None
    """Median time of a small request; None where none was answered."""
    refusals: tuple[Refusal, ...] = ()
    left: tuple[str, ...] = ()
    """Objects of this test that could not be removed."""
    skipped: str = ""
    """Why rights were not tried; empty where they were."""


class _Trials:
    """Calls of a store whose refusals are gathered. After one that got no answer nothing more is tried."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], list[str]] = {}
        self.silent = False

    def gives(self, expected: object, what: str, call: Callable[[], object], otherwise: str, advice: str) -> bool:
        """Whether `call` gives what is expected; anything else is told as `otherwise`, an error in its own words."""
        if self.silent:
            return False
        try:
            if call() == expected:
                return True
            reason = otherwise
        except (InputError, Unreachable, OSError) as error:
            reason, advice = _words(error, advice)
            self.silent = isinstance(error, Unreachable)
        self.found.setdefault((reason, advice), []).append(what)
        return False

    def refusals(self) -> tuple[Refusal, ...]:
        return tuple(Refusal(tuple(what), *key) for key, what in self.found.items())


def _words(error: Exception, advice: str) -> tuple[str, str]:
    """What an error says, without the object that it was met at, and its advice or the given one."""
    if isinstance(error, OSError) and not isinstance(error, Unreachable):
        return ("there is no such object" if isinstance(error, FileNotFoundError) else error.strerror or str(error)), advice
    reason, _, own = str(error).partition(": ")[2].partition("; ")
    return reason, own or advice


SEEN = "seen"
"""Below the folder of a test, what the driver has written there for all to read; its content is the folder's name."""
RIGHTS = "grant it for this prefix (cluster/aws-policy.json), or give another one"
CONDITION = "take a storage that honours If-None-Match: without it two drivers of one run could both commit"
REACH = "check the network, AWS_ENDPOINT_URL and the storage"
SHARED = "give an s3:// prefix, or a folder that all nodes share"


def new_folder() -> str:
    """A name for the folder of a test, which nobody else has."""
    return f"doctor-{secrets.token_hex(8)}"


def begin(uri: str, folder: str, longest_s: float) -> Access:
    """Write what all are to see; `remove` removes it. The objects of others are not touched."""
    store, trials = open_store(uri).bounded(longest_s), _Trials()
    trials.gives(None, "write", lambda: store.write(f"{folder}/{SEEN}", folder.encode()), "", RIGHTS)
    return Access(store.uri, refusals=trials.refusals())


def remove(uri: str, folder: str, unknown: Sequence[str], longest_s: float) -> tuple[str, ...]:
    """Remove what `begin` has written, and what the machines of the names `unknown` may have; all that could not be removed.

    Any other machine has removed its own objects, or told of them.
    """
    store, left = open_store(uri).bounded(longest_s), []
    for path in [f"{folder}/{SEEN}", *(path for name in unknown for path in _paths(folder, name))]:
        try:
            store.delete(path)
        except (InputError, Unreachable, OSError):
            left.append(f"{store.uri}/{path}")
    return tuple(left)


def _paths(folder: str, name: str) -> list[str]:
    """The objects of one machine's test."""
    return [f"{folder}/{name}/{kind}" for kind in ("created", "written")]


def try_runs(uri: str, folder: str, name: str, seen: bool, longest_s: float) -> Access:
    """Try all that a run does at `uri`: write, read, list, delete, and put where there is nothing, below `folder`/`name`.

    Reading is tried on what was written, here or by the driver: who asks for what is not there is told little of rights.

    seen: whether `begin` has written its object. longest_s: how long a single request is tried again.
    """
    store, trials = open_store(uri).bounded(longest_s), _Trials()
    ahead_s, skipped = _clock(store, trials)
    if not seen and not uri.startswith("s3://"):
        skipped = "the driver could write nothing there that this node could look for"
    if skipped or trials.silent:
        return Access(store.uri, ahead_s, refusals=trials.refusals(), skipped=skipped)
    if seen and not _shared(store, folder, trials):
        return Access(store.uri, ahead_s, refusals=trials.refusals())
    paths, there = _paths(folder, name), []
    if trials.gives(True, "conditional put", lambda: store.create(paths[0], b"one"), "there was an object before", RIGHTS):
        there.append(paths[0])
        trials.gives(False, "conditional put", lambda: store.create(paths[0], b"another"), "it puts over what is there", CONDITION)
    if trials.gives(None, "write", lambda: store.write(paths[1], b"one"), "", RIGHTS):
        there.append(paths[1])
        trials.gives(b"one", "read", lambda: store.read(paths[1]), "what is read is not what was written", "do not use it")
    trials.gives(there, "list", lambda: list(store.list(f"{folder}/{name}/")), "the list is not what was written", "do not use it")
    round_trip_s = _round_trip_s(store, paths[1])
    left = [path for path in paths if not trials.gives(None, "delete", functools.partial(store.delete, path), "", RIGHTS) and path in there]
    return Access(store.uri, ahead_s, round_trip_s, trials.refusals(), tuple(f"{store.uri}/{path}" for path in left))


def try_videos(uri: str, longest_s: float) -> Access:
    """Try all that ingest does at `uri`: list, and read a byte of one object."""
    store, trials = open_store(uri).bounded(longest_s), _Trials()
    ahead_s, skipped = _clock(store, trials)
    if skipped or trials.silent:
        return Access(store.uri, ahead_s, refusals=trials.refusals(), skipped=skipped)
    found: list[str] = []

    def list_one() -> bool:
        found.extend(path for path in [store.some()] if path is not None)
        return bool(found)

    def read_byte() -> bool:
        with store.open(found[0]) as file:
            return len(file.read(1)) <= 1

    advice = "give the folder or prefix of the videos" if uri.startswith("s3://") else SHARED
    round_trip_s = None
    if trials.gives(True, "list", list_one, "it holds no object", advice) and trials.gives(True, "read", read_byte, "", RIGHTS):
        round_trip_s = _round_trip_s(store, found[0])
    return Access(store.uri, ahead_s, round_trip_s, trials.refusals())


def _shared(store: Store, folder: str, trials: _Trials) -> bool:
    """Whether this machine sees what the driver has written. Of a local folder that it does not see it makes none either."""
    path, advice = f"{folder}/{SEEN}", RIGHTS if store.uri.startswith("s3://") else SHARED
    sees = trials.gives(folder.encode(), "read what the driver wrote", lambda: store.read(path), "it is another's", advice)
    return sees or store.uri.startswith("s3://")


def _clock(store: Store, trials: _Trials) -> tuple[float | None, str]:
    """How far this machine's clock is ahead, and, where that is so far that the storage refuses all, words for it."""
    ahead: list[float | None] = [None]

    def ask() -> None:
        ahead[0] = store.clock_ahead_s()

    trials.gives(None, "answer", ask, "", REACH)
    return ahead[0], "the storage refuses all requests by this clock" if abs(ahead[0] or 0.0) > SKEW_S else ""


def _round_trip_s(store: Store, path: str) -> float | None:
    """Median time to ask for the size of an object; None where that is refused."""
    times = []
    try:
        for _ in range(ROUND_TRIPS):
            begun = time.perf_counter()
            store.size(path)
            times.append(time.perf_counter() - begun)
    except (InputError, Unreachable, OSError):
        return None
    return statistics.median(times)
