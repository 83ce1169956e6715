"""A local folder as a store."""

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mvgan.storage.store import Store, inner_path


Fill = Callable[[BinaryIO], object]
"""Writes the content of a file that is open for it."""


class LocalStore(Store):
    """A folder. Files appear by rename or hard link of a synced temporary file, so they are never seen in part."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        # Absolute, since the store travels to processes with another working directory.
        super().__init__(os.path.abspath(os.path.expanduser(os.fspath(root))))

    def _file(self, path: str) -> Path:
        return Path(self.uri, inner_path(path))

    def read(self, path: str) -> bytes:
        return self._file(path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        self._replace(path, lambda file: file.write(data))

    def put(self, path: str, file: str) -> None:
        with open(file, "rb") as source:
            self._replace(path, lambda target: shutil.copyfileobj(source, target))

    def _replace(self, path: str, fill: Fill) -> None:
        target = self._file(path)
        with _temporary(target, fill) as temporary:
            os.replace(temporary, target)
            _sync_folder(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        target = self._file(path)
        with _temporary(target, lambda file: file.write(data)) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                # A file server may have lost the answer to a link that it made: then our file has two names.
                return os.stat(temporary).st_nlink == 2
            _sync_folder(target.parent)
            return True

    def list(self, prefix: str = "") -> dict[str, int]:
        return {path: size for path, size in self._walk(prefix) if not _is_temporary(path)}

    def temporaries(self) -> dict[str, int]:
        """Sizes in bytes of this store's own temporary files that are there: a killed writer left them, or a live one is at them."""
        return {path: size for path, size in self._walk("") if re.search(r"(^|/)\.[^/]+\.[0-9a-f]{16}\.tmp$", path)}

    def _walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        found = []
        # Only the last part of the prefix can be a partial name.
        top = os.path.join(self.uri, os.path.dirname(prefix))
        for folder, _, names in os.walk(top, onerror=_unless_absent):
            for name in names:
                path = os.path.relpath(os.path.join(folder, name), self.uri).replace(os.sep, "/")
                if path.startswith(prefix):
                    found.append(path)
        for path in sorted(found):
            size = self.size(path)
            if size is not None:  # may have gone since the folder was read
                yield path, size

    def size(self, path: str) -> int | None:
        try:
            found = os.stat(self._file(path))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):  # not there, or a link to itself
                return None
            raise  # below a file, or where reading is not allowed, nothing could be made either
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def age_s(self, path: str) -> float | None:
        try:
            return max(0.0, time.time() - os.stat(self._file(path)).st_mtime)
        except FileNotFoundError:
            return None

    def delete(self, path: str) -> None:
        file = self._file(path)
        with suppress(FileNotFoundError):
            os.unlink(file)
        if file.parent != Path(self.uri):
            # A folder exists only by what is in it, as on S3. One still in use, or just removed by another, refuses.
            with suppress(OSError):
                os.rmdir(file.parent)

    def at(self, sub: str) -> "LocalStore":
        return LocalStore(self._file(sub)) if sub else self

    def open(self, path: str) -> BinaryIO:
        return open(self._file(path), "rb")


def _unless_absent(error: OSError) -> None:
    """A folder that may not be read must not look empty."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _is_temporary(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith(".") and name.endswith(".tmp")


@contextmanager
def _temporary(target: Path, fill: Fill) -> Iterator[Path]:
    """A synced file that `fill` writes, beside `target`, removed at the end if it is still there."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with _open_new(temporary) as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _open_new(file: Path, tries: int = 20) -> BinaryIO:
    """Open `file` for writing in its folder, made again each time that a `delete` beside us removes it first."""
    for _ in range(tries - 1):
        # Either call may find the folder gone, or there a moment before and gone now.
        with suppress(FileNotFoundError, FileExistsError):
            _make_folder(file.parent)
            return open(file, "xb")
    _make_folder(file.parent)
    return open(file, "xb")


def _make_folder(folder: Path) -> None:
    """Make `folder` and those above it, each one's name synced like that of a file."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        os.mkdir(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
