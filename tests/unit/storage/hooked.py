"""A store that acts at any single operation, and what the tests of the commit protocol share beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from mvgan.storage.commit import Commit, Commits
from mvgan.storage.uri import LocalStore, Store


OLD = {"state.pt": b"old state", "ema.pt": b"old ema"}
NEW = {"state.pt": b"new state", "ema.pt": b"new ema"}


class Crash(Exception):
    """Stands for a SIGKILL."""


class HookedStore(Store):
    """A local store that calls `hook(number of the operation, "before" or "after")` around every operation."""

    def __init__(self, inner: Store, hook: Callable[[int, str], None], count: list[int] | None = None) -> None:
        super().__init__(inner.uri)
        self.inner, self.hook, self.count = inner, hook, count or [0]

    def _call(self, name: str, *args: Any) -> Any:
        number = self.count[0]
        self.count[0] += 1
        self.hook(number, "before")
        result = getattr(self.inner, name)(*args)
        self.hook(number, "after")
        return result

    def read(self, path: str) -> bytes:
        result: bytes = self._call("read", path)
        return result

    def write(self, path: str, data: bytes) -> None:
        self._call("write", path, data)

    def put(self, path: str, file: str) -> None:
        self._call("put", path, file)

    def create(self, path: str, data: bytes) -> bool:
        result: bool = self._call("create", path, data)
        return result

    def list(self, prefix: str = "") -> dict[str, int]:
        result: dict[str, int] = self._call("list", prefix)
        return result

    def size(self, path: str) -> int | None:
        result: int | None = self._call("size", path)
        return result

    def age_s(self, path: str) -> float | None:
        return self.inner.age_s(path)

    def delete(self, path: str) -> None:
        self._call("delete", path)

    def at(self, sub: str) -> Store:
        return HookedStore(self.inner.at(sub), self.hook, self.count)

    def open(self, path: str) -> BinaryIO:
        return self.inner.open(path)


def commits(root: Path, hook: Callable[[int, str], None] | None = None) -> Commits:
    store = LocalStore(root)
    return Commits(HookedStore(store, hook) if hook else store, "pairs")


def newest(found: Commits) -> Commit:
    commit = found.newest()
    assert commit is not None
    return commit


def content(found: Commits, commit: Commit) -> dict[str, bytes]:
    return {file: found.read(commit, file) for file in commit.files}


def once(at: int, when: str, act: Callable[[], None]) -> tuple[Callable[[int, str], None], list[bool]]:
    """A hook that acts at one operation, and a list that tells whether it did."""
    done: list[bool] = []

    def hook(number: int, moment: str) -> None:
        if (number, moment) == (at, when):
            done.append(True)
            act()

    return hook, done


def crash() -> None:
    raise Crash
