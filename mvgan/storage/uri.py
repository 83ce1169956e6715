"""Stores of whole objects: a local folder or an S3 prefix behind the same few operations.

A path is always relative to the store's root, with `/` between its parts, wherever the store lives.
Every failed write raises: nothing here goes through pyarrow's copy, which can report success with no object written.
"""

import functools
import io
import itertools
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from mvgan.config import InputError


CONFLICT_TRIES = 8
"""How often a conditional PUT is repeated that S3 answered by 409 (another one was in flight)."""


class Store(ABC):
    """Objects under one root. Holds nothing but its `uri`, so it can be pickled and sent anywhere."""

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
    def create(self, path: str, data: bytes) -> bool:
        """Put the object only where there is none: True when it is ours, False when another's was first.

        On S3 an object of the very same bytes counts as ours (its answer may have been lost), so rivals must not
        write equal bytes: put something random in.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> dict[str, int]:
        """Sizes in bytes of all objects whose path begins with `prefix`, folders included, sorted by path."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Size in bytes, or None when there is no such object."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove the object; it is no error when there is none."""

    @abstractmethod
    def at(self, sub: str) -> "Store":
        """The store rooted at the folder `sub` of this one."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """A seekable binary file to read parts of the object (Parquet). Raises FileNotFoundError."""

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return self.size(path) is not None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and self.uri == other.uri

    def __hash__(self) -> int:
        return hash(self.uri)


def open_store(uri: str | os.PathLike[str]) -> Store:
    """The store at a local path or at `s3://bucket/prefix`; it need not exist. Raises InputError for other schemes."""
    text = os.fspath(uri)
    if not text:
        raise InputError("the storage URI is empty; give a folder or s3://bucket/prefix")
    if "://" not in text:
        return LocalStore(text)
    if text.startswith("s3://"):
        return S3Store(text)
    raise InputError(f"storage {text!r} has the scheme {text.split('://')[0]!r}; give a local path or s3://bucket/prefix")


def inner_path(path: str) -> str:
    """`path` without a closing slash, checked to stay under the root. Raises ValueError otherwise."""
    parts = path.rstrip("/").split("/")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} is no path below the root of a store")
    return "/".join(parts)


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
        target = self._file(path)
        with _temporary(target, data) as temporary:
            os.replace(temporary, target)
            _sync_folder(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        target = self._file(path)
        with _temporary(target, data) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                # A file server may have lost the answer to a link that it made: then our file has two names.
                return os.stat(temporary).st_nlink == 2
            _sync_folder(target.parent)
            return True

    def list(self, prefix: str = "") -> dict[str, int]:
        found: dict[str, int] = {}
        # Only the last part of the prefix can be a partial name.
        top = os.path.join(self.uri, os.path.dirname(prefix))
        for folder, _, names in os.walk(top, onerror=_unless_absent):
            for name in names:
                path = os.path.relpath(os.path.join(folder, name), self.uri).replace(os.sep, "/")
                if path.startswith(prefix) and not _is_temporary(name):
                    size = self.size(path)
                    if size is not None:  # may have gone since the folder was read
                        found[path] = size
        return dict(sorted(found.items()))

    def size(self, path: str) -> int | None:
        file = self._file(path)
        try:
            return file.stat().st_size if file.is_file() else None
        except FileNotFoundError:
            return None

    def delete(self, path: str) -> None:
        file = self._file(path)
        file.unlink(missing_ok=True)
        if file.parent != Path(self.uri):
            # A folder exists only by what is in it, as on S3. One still in use, or just removed by another, refuses.
            with suppress(OSError):
                file.parent.rmdir()

    def at(self, sub: str) -> "LocalStore":
        return LocalStore(self._file(sub)) if sub else self

    def open(self, path: str) -> BinaryIO:
        return self._file(path).open("rb")


def _unless_absent(error: OSError) -> None:
    """A folder that may not be read must not look empty."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


@contextmanager
def _temporary(target: Path, data: bytes) -> Iterator[Path]:
    """A synced file with `data` beside `target`, removed at the end if it is still there."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with _open_new(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _open_new(file: Path, tries: int = 20) -> BinaryIO:
    """Open `file` for writing in its folder, made again each time that a `delete` beside us removes it first."""
    for _ in range(tries - 1):
        # Either call may find the folder gone; mkdir then reports that it had existed a moment before.
        with suppress(FileNotFoundError, FileExistsError):
            file.parent.mkdir(parents=True, exist_ok=True)
            return file.open("xb")
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.open("xb")


def _sync_folder(folder: Path) -> None:
    """Make the new name in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class S3Store(Store):
    """A prefix of a bucket. The endpoint, region and credentials are those of the AWS environment."""

    checks_uploads = True  # by the checksum that boto3 sends along

    def __init__(self, uri: str) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise InputError(f"storage {uri!r} names no bucket; give s3://bucket/prefix")
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        super().__init__(f"s3://{bucket}/{self.prefix}".rstrip("/"))

    def _key(self, path: str) -> str:
        inner = inner_path(path)
        return f"{self.prefix}/{inner}" if self.prefix else inner

    def _call(self, path: str, call: Callable[[Any], Any]) -> Any:
        """`call` of the client, with errors told in the words of the Store."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            return call(_client(os.getpid()))
        except NoCredentialsError as error:
            raise InputError(f"{self.uri}: no AWS credentials found; set AWS_PROFILE, AWS_ACCESS_KEY_ID or an instance role") from error
        except ClientError as error:
            code = str(error.response["Error"].get("Code"))
            if code == "NoSuchBucket":
                raise InputError(f"there is no bucket {self.bucket!r}; create it or give another one") from error
            if code in ("NoSuchKey", "404", "NotFound"):
                raise FileNotFoundError(f"{self.uri}/{path}") from error
            if code in ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
                raise InputError(f"{self.uri}/{path}: access denied ({code}); check the AWS credentials and the bucket's policy") from error
            raise
        except BotoCoreError as error:
            raise InputError(f"{self.uri}/{path}: {error}; check the bucket's name, AWS_ENDPOINT_URL and the network") from error

    def read(self, path: str) -> bytes:
        buffer = io.BytesIO()
        # download_fileobj asks again after a body that was cut short; get_object().read() does not.
        self._call(path, lambda client: client.download_fileobj(self.bucket, self._key(path), buffer))
        return buffer.getvalue()

    def write(self, path: str, data: bytes) -> None:
        self._call(path, lambda client: client.upload_fileobj(io.BytesIO(data), self.bucket, self._key(path)))

    def create(self, path: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        for attempt in itertools.count():
            try:
                self._call(path, lambda client: client.put_object(Bucket=self.bucket, Key=self._key(path), Body=data, IfNoneMatch="*"))
                break
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status == 412:
                    # The client repeats a PUT whose answer was lost, and is then refused by its own object.
                    return self.read(path) == data
                if status != 409 or attempt == CONFLICT_TRIES:
                    raise
                time.sleep(0.05 * 2**attempt)
        return True

    def list(self, prefix: str = "") -> dict[str, int]:
        root = f"{self.prefix}/" if self.prefix else ""
        found: dict[str, int] = {}

        def pages(client: Any) -> None:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=root + prefix):
                found.update({item["Key"].removeprefix(root): item["Size"] for item in page.get("Contents", ())})

        self._call(prefix, pages)
        # Some tools mark folders by empty objects whose name ends in a slash: they are no objects of ours.
        return {path: found[path] for path in sorted(found) if path and not path.endswith("/")}

    def size(self, path: str) -> int | None:
        try:
            answer = self._call(path, lambda client: client.head_object(Bucket=self.bucket, Key=self._key(path)))
        except FileNotFoundError:
            return None
        return int(answer["ContentLength"])

    def delete(self, path: str) -> None:
        self._call(path, lambda client: client.delete_object(Bucket=self.bucket, Key=self._key(path)))

    def at(self, sub: str) -> "S3Store":
        return S3Store(f"s3://{self.bucket}/{self._key(sub)}") if sub else self

    def open(self, path: str) -> BinaryIO:
        import s3fs

        # Another process may have written since a listing, so none is kept.
        files = s3fs.S3FileSystem(use_listings_cache=False, default_cache_type="readahead")
        return cast(BinaryIO, files.open(f"{self.bucket}/{self._key(path)}", "rb"))


@functools.cache
def _client(process: int) -> Any:
    """The boto3 client of this process: it is safe between threads, but its sockets must not pass through a fork."""
    import boto3
    from botocore.config import Config

    retries = {"mode": "standard", "max_attempts": 10}
    config = Config(retries=retries, connect_timeout=10, read_timeout=60, max_pool_connections=32)  # type: ignore[arg-type, unused-ignore]
    return boto3.session.Session().client("s3", config=config)
