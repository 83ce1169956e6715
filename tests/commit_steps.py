"""A driver that is killed or paused at any step of the commit protocol, in processes of its own.

A step is an operation of the store, such as `create commits/#.json`, or a call of the operating system that an operation
on a local disk makes, such as `create commits/#.json: link`. `python -m tests.commit_steps kill|pause|hold FOLDER` tries
every step on a local disk and prints one JSON line each; a store elsewhere is tried by the same functions, without the
calls of the operating system.
"""

import builtins
import json
import os
import re
import shutil
import signal
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mvgan.storage import holder, local
from mvgan.storage.commit import Commits, Superseded
from mvgan.storage.uri import LocalStore, Store, open_store


OLD = {"state.pt": b"old state", "ema.pt": b"old ema"}
NEW = {"state.pt": b"new state", "ema.pt": b"new ema"}
RIVAL = {"state.pt": b"state of the rival"}
NEXT = {"state.pt": b"state of the next driver"}
SYSTEM = ("mkdir", "replace", "link", "unlink", "rmdir", "fsync")
CHANGES = ("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.truncate", "os.symlink", "os.chmod", "shutil.rmtree")
"""Events of Python's audit of what changes a file system, beside opening a file to write."""


class Steps:
    """Names the steps as they come; "before" or "after" step number `at` it calls `act`."""

    def __init__(self, at: int | None = None, when: str = "before", act: Callable[[], None] | None = None) -> None:
        self.names: list[str] = []
        self.at, self.when, self.act = at, when, act
        self.local = threading.local()
        self.lock = threading.Lock()

    @property
    def stack(self) -> list[str]:
        """The step at work in this thread, and those around it."""
        if not hasattr(self.local, "stack"):
            self.local.stack = []
        return self.local.stack

    def run(self, name: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with self.lock:
            index = len(self.names)
            self.names.append(name)
        self.stack.append(name)
        try:
            self._reach(index, "before")
            return call(*args, **options)
        finally:
            self._reach(index, "after")  # also of a call that is refused, as rmdir may be
            self.stack.pop()

    def _reach(self, index: int, moment: str) -> None:
        if (index, moment) == (self.at, self.when) and self.act:
            self.act()


def send(number: int) -> Callable[[], None]:
    """Send this process the signal `number`."""
    return lambda: os.kill(os.getpid(), number)


class StepStore(Store):
    """A store whose operations are steps."""

    def __init__(self, inner: Store, steps: Steps) -> None:
        super().__init__(inner.uri)
        self.inner, self.steps, self.checks_uploads = inner, steps, inner.checks_uploads

    def _step(self, operation: str, path: str, *args: Any) -> Any:
        # Numbers and nonces away: one name for all commits.
        plain = re.sub(r"\d+-\d+(-[0-9a-f]{8})?|\d{5}", "#", path)
        return self.steps.run(f"{operation} {plain}".strip(), getattr(self.inner, operation), path, *args)

    def read(self, path: str) -> bytes:
        data: bytes = self._step("read", path)
        return data

    def write(self, path: str, data: bytes) -> None:
        self._step("write", path, data)

    def put(self, path: str, file: str) -> None:
        self._step("put", path, file)

    def create(self, path: str, data: bytes) -> bool:
        made: bool = self._step("create", path, data)
        return made

    def list(self, prefix: str = "") -> dict[str, int]:
        found: dict[str, int] = self._step("list", prefix)
        return found

    def size(self, path: str) -> int | None:
        size: int | None = self._step("size", path)
        return size

    def age_s(self, path: str) -> float | None:
        return self.inner.age_s(path)

    def delete(self, path: str) -> None:
        self._step("delete", path)

    def at(self, sub: str) -> Store:
        return StepStore(self.inner.at(sub), self.steps)

    def open(self, path: str) -> BinaryIO:
        return self.inner.open(path)


class _System:
    """The module `os` for mvgan.storage.local, its changing calls made steps."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def __getattr__(self, name: str) -> Any:
        if name not in SYSTEM:
            return getattr(os, name)

        def call(*args: Any) -> Any:
            what = name
            if name == "fsync":
                what += " folder" if stat.S_ISDIR(os.fstat(args[0]).st_mode) else " file"
            if name in ("unlink", "rmdir", "mkdir"):
                what += " temporary" if str(args[0]).endswith(".tmp") else ""
            return self.steps.run(f"{self.steps.stack[0]}: {what}", getattr(os, name), *args)

        return call

    def open_file(self, path: Any, mode: str) -> Any:
        if mode == "rb":
            return builtins.open(path, mode)
        return self.steps.run(f"{self.steps.stack[0]}: open", builtins.open, path, mode)


@contextmanager
def system_steps(steps: Steps) -> Iterator[None]:
    """Make the changing calls of the local store steps too."""
    system = _System(steps)
    local.os, local.open = system, system.open_file  # type: ignore[attr-defined]
    try:
        yield
    finally:
        local.os = os  # type: ignore[attr-defined]
        del local.open  # type: ignore[attr-defined]


def unnamed_changes(steps: Steps, root: str) -> list[str]:
    """Grows by each change below `root` that is made outside of a step of the operating system, as Python's audit tells."""
    found: list[str] = []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes or event in CHANGES) and str(args[0]).startswith(root) and ": " not in "".join(steps.stack[-1:]):
            found.append(f"{event} {args[0]}")

    sys.addaudithook(hook)
    return found


def forked(call: Callable[[], int]) -> int:
    """The id of a child process that ends with the status that `call` returns."""
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        code = call()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(process: int) -> int:
    """How a child process ended: its exit status, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def prepare(uri: str) -> None:
    """A stage with two commits, of a driver that has ended."""
    run = Commits(open_store(uri), "pairs")
    epoch = run.claim({"driver": "first"})
    run.write(100, epoch, OLD, {})
    run.write(150, epoch, OLD, {})


def drive(uri: str, steps: Steps, first: list[int] | None = None, again: bool = False) -> int:
    """The driver under test: claims, commits, prunes, and commits `again`. 0, or 3 when it learned that it is superseded.

    `first` gets the numbers of the steps at which its first commit begins and has been reported.
    """
    run = Commits(StepStore(open_store(uri), steps), "pairs")
    try:
        epoch = run.claim({"driver": "second"})
        start = len(steps.names)
        run.write(200, epoch, NEW, {})
        if first is not None:
            first += [start, len(steps.names)]
        run.prune(keep=2)
        if again:
            run.write(900, epoch, NEW, {})
    except Superseded:
        return 3
    return 0


def state(uri: str) -> dict[str, bytes]:
    """What a reader finds in the newest commit; all others must be whole too."""
    run = Commits(open_store(uri), "pairs")
    for commit in run.records():
        assert {file: run.read(commit, file) for file in commit.files}
    newest = run.newest()
    assert newest is not None
    return {file: run.read(newest, file) for file in newest.files}


def go_on(uri: str) -> None:
    """The next driver commits, and what the killed one left is removed; nothing is left over and two commits stay."""
    store = open_store(uri)
    run = Commits(store, "pairs")
    run.write(300, run.claim({"driver": "next"}), NEXT, {})
    assert state(uri) == NEXT
    run.prune(keep=2)
    run.remove_uncommitted({"driver": "gc"})
    for path in store.temporaries() if isinstance(store, LocalStore) else ():
        store.delete(path)
    assert state(uri) == NEXT
    records = run.records()
    assert len(records) == 2
    named = {f"data/{commit.files[file]['path'].partition('/')[2]}" for commit in records for file in commit.files}
    assert set(run.store.list("data/")) == named
    assert {path for path in store.list() if "/commits/" in path} == {f"pairs/commits/{commit.name}.json" for commit in records}
    if isinstance(store, LocalStore):
        assert not [name for _, _, names in os.walk(store.uri) for name in names if name.endswith(".tmp")]


def undisturbed(uri: str) -> dict[str, Any]:
    """The steps of an undisturbed driver, where its first commit begins and ends, and changes outside of any step."""
    read, write = os.pipe()

    def call() -> int:
        steps, first = Steps(), []  # type: ignore[var-annotated]
        unnamed = unnamed_changes(steps, uri)
        with system_steps(steps):
            drive(uri, steps, first)
        os.write(write, json.dumps({"names": steps.names, "first": first, "unnamed": unnamed}).encode())
        return 0

    prepare(uri)
    process = forked(call)
    os.close(write)
    with os.fdopen(read) as pipe:
        found: dict[str, Any] = json.load(pipe)
    assert ended(process) == 0
    return found


def disturbed(uri: str, at: int, when: str, number: int) -> int:
    """A driver in a child process that gets the signal `number` at step `at`; its id."""

    def call() -> int:
        steps = Steps(at, when, send(number))
        with system_steps(steps):
            return drive(uri, steps, again=number == signal.SIGSTOP)

    prepare(uri)
    return forked(call)


def kill_matrix(root: str) -> Iterator[dict[str, Any]]:
    """SIGKILL before and after every step: how the driver ended, what a reader found, and that the next one goes on."""
    plan = undisturbed(f"{root}/plan")
    yield plan
    for index, name in enumerate(plan["names"]):
        for when in ("before", "after"):
            uri = f"{root}/{when}-{index}"
            how = ended(disturbed(uri, index, when, signal.SIGKILL))
            found = state(uri)
            go_on(uri)
            yield {
                "step": name,
                "index": index,
                "when": when,
                "ended": how,
                "state": "new" if found == NEW else "old" if found == OLD else "?",
            }


def pause_matrix(root: str) -> Iterator[dict[str, Any]]:
    """SIGSTOP at every step from the first commit on, a rival that takes over and commits, SIGCONT: who has won."""
    plan = undisturbed(f"{root}/plan")
    for index in range(plan["first"][0], len(plan["names"])):
        uri = f"{root}/{index}"
        process = disturbed(uri, index, "before", signal.SIGSTOP)
        _, status = os.waitpid(process, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"the driver did not pause at step {index}: {status}"
        rival = Commits(open_store(uri), "pairs")
        rival.write(160, rival.claim({"driver": "rival"}), RIVAL, {})
        os.kill(process, signal.SIGCONT)
        how = ended(process)
        yield {"step": plan["names"][index], "ended": how, "won": state(uri) != RIVAL, "records": len(rival.records())}


def hold_matrix(root: str) -> Iterator[dict[str, Any]]:
    """SIGKILL before and after every step of holding a folder: the next driver on this machine gets it at once."""

    def hold(uri: str, steps: Steps, work_s: float) -> int:
        holder.BEAT_S = 0.005
        with system_steps(steps), holder.held(StepStore(open_store(uri), steps), "train"):
            time.sleep(work_s)
        return 0

    def status(uri: str, steps: Steps, work_s: float = 0.0) -> int:
        return ended(forked(lambda: hold(uri, steps, work_s)))

    for _ in range(3):  # so that there are old claims to remove
        assert status(f"{root}/old", Steps()) == 0
    how = -signal.SIGKILL
    index = 0
    while how == -signal.SIGKILL:
        for when in ("before", "after"):
            uri = f"{root}/{when}-{index}"
            shutil.copytree(f"{root}/old", uri)
            how = status(uri, Steps(index, when, send(signal.SIGKILL)), 0.04)
            after = status(uri, Steps())
            claims = [path for path in open_store(uri).list("drivers/") if re.fullmatch(r"drivers/\d+\.json", path)]
            yield {"index": index, "when": when, "ended": how, "next": after, "claims": len(claims)}
        index += 1


if __name__ == "__main__":
    matrix = {"kill": kill_matrix, "pause": pause_matrix, "hold": hold_matrix}[sys.argv[1]]
    for result in matrix(str(Path(sys.argv[2]).resolve())):
        print(json.dumps(result), flush=True)
