"""Decoding in a process that can be killed: a crash, a hang or a greed of the decoder costs one source and nothing else.

The process is kept from source to source and started again after a death. It asks for the files of a source one by one and
gets them as open files, never as names, and no credentials come with its environment. A message is a length, a JSON header
and as many raw bytes as the header says.
"""

import atexit
import contextlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mvgan.data import clips
from mvgan.data.decode import BelowMinimum, OverLimit, Undecodable, Unreadable


MB = 1 << 20
START_S = 600.0
"""Most time for the process to start."""
GRACE_S = 10.0
"""So long after its time the process ends itself, should nobody be left to kill it."""
COMMAND = (sys.executable, "-m", "mvgan.data.sandbox")
INHERITED = frozenset(("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV"))
"""The environment of the process, besides what is set for it."""

_LENGTH = struct.Struct("<I")
_KINDS: dict[str, type[Undecodable]] = {kind.kind: kind for kind in (Undecodable, Unreadable, BelowMinimum, OverLimit)}

OpenFile = Callable[[int], BinaryIO]
"""Opens a file of the source by its number: a file of the operating system, with a descriptor."""
Pieces = list[tuple[bytes, int]]
"""Coded pieces with their numbers of frames."""


class _Channel:
    """Messages both ways. EOFError or ConnectionError: the other side is gone; TimeoutError: `deadline` (monotonic) has passed."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def send(self, header: dict[str, Any], data: bytes = b"") -> None:
        head = json.dumps({**header, "num_bytes": len(data)}).encode()
        self.connection.sendall(_LENGTH.pack(len(head)) + head + data)

    def receive(self, deadline: float | None = None) -> tuple[dict[str, Any], bytes]:
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
        header = json.loads(self._read(length, deadline))
        return header, self._read(header["num_bytes"], deadline)

    def _read(self, count: int, deadline: float | None) -> bytes:
        data = bytearray(count)
        got = 0
        while got < count:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self.connection.settimeout(left)
            received = self.connection.recv_into(memoryview(data)[got:])
            if not received:
                raise EOFError
            got += received
        self.connection.settimeout(None)
        return bytes(data)


class Sandbox:
    """A decoding process, started when it is first needed. For one thread at a time."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: _Channel | None = None
        self.num_starts = 0
        """How often the process was started."""

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process else None

    def encode(self, names: Sequence[str], is_folder: bool, settings: dict[str, Any], open_file: OpenFile) -> tuple[dict[str, Any], Pieces]:
        """The facts of a source, as `clips` tells them, and its pieces.

        Raises Undecodable, also when the process crashes or takes too much time or memory; what `open_file` raises comes
        through. RuntimeError: a mistake of our own in the process, with its traceback, or one that does not start.
        """
        pieces: Pieces = []
        try:
            channel = self._started()
            answer = self._ask(channel, {"names": list(names), "is_folder": is_folder, "settings": settings}, open_file, pieces)
        except BaseException:
            self.close()
            raise
        if answer["say"] == "done":
            return answer["facts"], pieces
        if answer["spent"]:
            self.close()
        raise _KINDS[answer["kind"]](answer["reason"])

    def _started(self) -> _Channel:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it died while idle, which is no fault of the next source
        if self._channel is None:
            ours, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(self._command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=_environment())
            self._channel = _Channel(ours)
            self.num_starts += 1
            try:
                self._channel.receive(time.monotonic() + START_S)
            except (EOFError, OSError) as error:
                raise RuntimeError(f"the decoding process does not start: {' '.join(self._command)} ({self._end()})") from error
        return self._channel

    def _ask(self, channel: _Channel, job: dict[str, Any], open_file: OpenFile, pieces: Pieces) -> dict[str, Any]:
        """The last message about `job`; pieces that came before it are added to `pieces`."""
        limit_s = job["settings"]["max_seconds"]
        deadline, coded = time.monotonic() + limit_s, 0
        with self._blamed(limit_s):
            channel.send(job)
        while True:
            with self._blamed(limit_s):
                header, data = channel.receive(deadline)
            if header["say"] == "piece":
                pieces.append((data, header["num_frames"]))
                coded += len(data)
                if coded > job["settings"]["memory_mb"] * MB:
                    self.close()
                    raise OverLimit(f"takes more than {job['settings']['memory_mb']} MB when coded (ingest.memory_mb)")
            elif header["say"] == "mistake":
                raise RuntimeError(f"the decoding process failed:\n{header['traceback']}")
            elif header["say"] == "open":
                began = time.monotonic()
                with open_file(header["file"]) as file, self._blamed(limit_s):
                    deadline += time.monotonic() - began  # a slow network is no fault of the source
                    socket.send_fds(channel.connection, [b"f"], [file.fileno()])
            else:
                return header

    @contextlib.contextmanager
    def _blamed(self, limit_s: float) -> Iterator[None]:
        """What happens to the process within is told as a fault of the source."""
        try:
            yield
        except TimeoutError as error:
            raise OverLimit(f"takes more than {limit_s:g} s (ingest.max_seconds)") from error
        except (EOFError, ConnectionError) as error:
            raise Undecodable(f"crashes the decoder ({self._end()})") from error

    def _end(self) -> str:
        """How the process ended, in a word."""
        assert self._process is not None
        try:
            status = self._process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            return "it does not answer"
        return signal.Signals(-status).name if status < 0 else f"status {status}"

    def close(self) -> None:
        """End the process."""
        if self._channel is not None:
            self._channel.connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._channel = self._process = None


def _environment() -> dict[str, str]:
    """No credentials, no threads, and the same modules as here."""
    kept = {name: value for name, value in os.environ.items() if name in INHERITED}
    here = str(Path(clips.__file__).parents[2])
    paths = os.pathsep.join([here, *(path for path in sys.path if path and path != here)])
    return {**kept, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


_idle: list[Sandbox] = []
os.register_at_fork(after_in_child=_idle.clear)  # a copy of this process must not talk to the same one


@contextlib.contextmanager
def borrowed() -> Iterator[Sandbox]:
    """A process of this interpreter, to be given back: it outlives a group of sources, since a start costs about a second."""
    try:
        sandbox = _idle.pop()
    except IndexError:
        sandbox = Sandbox()
    try:
        yield sandbox
    finally:
        _idle.append(sandbox)


@atexit.register
def _close_idle() -> None:
    for sandbox in _idle:
        sandbox.close()


def _serve(channel: _Channel) -> None:
    """The process itself: sources one after another, until nobody is there any more."""
    channel.send({"say": "ready"})
    while True:
        try:
            job, _ = channel.receive()
            channel.send(_answer(channel, job))
        except (EOFError, ConnectionError):
            return


def _answer(channel: _Channel, job: dict[str, Any]) -> dict[str, Any]:
    settings = job["settings"]
    opened: list[BinaryIO] = []

    def open_file(number: int) -> BinaryIO:
        while opened:
            opened.pop().close()
        channel.send({"say": "open", "file": number})
        data, descriptors, _, _ = socket.recv_fds(channel.connection, 1, 1)
        if not data:
            raise EOFError
        signal.setitimer(signal.ITIMER_REAL, settings["max_seconds"] + GRACE_S)  # its default action ends the process
        opened.append(os.fdopen(descriptors[0], "rb"))
        return opened[-1]

    def emit(data: bytes, num_frames: int) -> None:
        channel.send({"say": "piece", "num_frames": num_frames}, data)

    most = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = settings["memory_mb"] * MB
    resource.setrlimit(resource.RLIMIT_DATA, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
    try:
        if job["is_folder"]:
            facts = clips.encode_folder(open_file, job["names"], settings, emit)
        else:
            facts = clips.encode_video(open_file(0), settings, emit)
        return {"say": "done", "facts": facts}
    except Undecodable as error:
        return {"say": "rejected", "kind": error.kind, "reason": str(error), "spent": False}
    except MemoryError:
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        reason = f"takes more than {settings['memory_mb']} MB (ingest.memory_mb)"
        return {"say": "rejected", "kind": OverLimit.kind, "reason": reason, "spent": True}
    except (EOFError, ConnectionError):
        raise
    except OSError as error:
        return {"say": "rejected", "kind": Unreadable.kind, "reason": f"cannot be read: {error.strerror or error}", "spent": False}
    except Exception:
        return {"say": "mistake", "traceback": traceback.format_exc()}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        while opened:
            opened.pop().close()


def main() -> None:
    """Serve the process at the other end of standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that started this is told, and ends it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _serve(_Channel(socket.socket(fileno=os.dup(0))))


if __name__ == "__main__":
    main()
