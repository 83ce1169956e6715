"""What a store of whole objects can do, wherever it lives.

A path is always relative to the store's root, with `/` between its parts. Every failed write raises: nothing here goes
through pyarrow's copy, which can report success with no object written.
"""

from abc import ABC, abstractmethod
from typing import BinaryIO


class Unreachable(ConnectionError):
    """The store gave no proper answer for as long as an operation is tried again."""


class Store(ABC):
    """Objects under one root. Holds nothing but its `uri`, so it can be pickled and sent anywhere.

    Every operation may raise Unreachable, and InputError where access is refused.
    """

    checks_uploads = False
    """Whether the store itself refuses data that was altered on the way to it."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Put the object in place of what is there; a reader sees the old or the new one, whole."""

    @abstractmethod
    def put(self, path: str, file: str) -> None:
        """As `write`, of the local file `file`, which may be larger than memory."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Put the object only where there is none: True when it is ours, False when another's was first.

        On S3 an object of the very same bytes counts as ours (its answer may have been lost), so rivals must not
        write equal bytes: put something random in.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> dict[str, int]:
        """Sizes in bytes of all objects whose path begins with `prefix`, folders included, sorted by path."""

    def some(self) -> str | None:
        """The path of one of the objects, None when there is none; also of millions it is told at once."""
        return next(iter(self.list()), None)

    def clock_ahead_s(self) -> float | None:
        """How far this machine's clock is ahead of the storage's own, to a second; None where the storage has none of its own.

        Access need not be granted.
        """
        return None

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Size in bytes, or None when there is no such object."""

    @abstractmethod
    def age_s(self, path: str) -> float | None:
        """Seconds since the object was written, by the storage's own clock where it has one; None when there is no such object.

        For people to read: nothing is decided by it.
        """

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove the object; it is no error when there is none."""

    @abstractmethod
    def at(self, sub: str) -> "Store":
        """The store rooted at the folder `sub` of this one."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """A seekable binary file to read parts of the object (Parquet). Raises FileNotFoundError."""

    def bounded(self, seconds: float) -> "Store":
        """The same store, whose operations are tried again for so long at most."""
        return self

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return self.size(path) is not None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and self.uri == other.uri

    def __hash__(self) -> int:
        return hash(self.uri)


def inner_path(path: str) -> str:
    """`path` without a closing slash, checked to stay under the root. Raises ValueError otherwise."""
    parts = path.rstrip("/").split("/")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} is no path below the root of a store")
    return "/".join(parts)
