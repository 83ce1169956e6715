"""A prefix of an S3 bucket as a store. The endpoint, region and credentials are those of the AWS environment alone."""

import functools
import io
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, TypeVar, cast

from mvgan.config import InputError
from mvgan.storage.endure import clock_ahead_s, endure
from mvgan.storage.store import Store, inner_path


T = TypeVar("T")

READ_S = 120.0
"""How long reads, listings and removals are tried again, from the first failure on."""
WRITE_S = 300.0
"""The same for writes, which can wait: training goes on beside them."""
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5, 12
"""Of one try; a hang costs no more."""
CLIENT_TRIES = 3
"""Tries of one request by boto3, so that one lost request of a transfer in parts does not repeat the others."""
ROLE_TRIES = 3
"""Tries to get the credentials of an instance role; boto3's own one would make a hiccup look like a machine without any."""
READ_AHEAD_BYTES = 1 << 20
"""Read beyond what a reader asks for: the small columns of a row group come with its large one."""


@dataclass(frozen=True)
class Upload:
    """An upload in parts that was begun and not completed; `age_s` is by the server's clock."""

    path: str
    upload_id: str
    age_s: float
    num_bytes: int


class S3Store(Store):
    """A prefix of a bucket. Every operation survives faults of READ_S or WRITE_S, or of `longest_s` where that is less."""

    checks_uploads = True  # by the checksum that boto3 sends along

    def __init__(self, uri: str, longest_s: float = math.inf) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise InputError(f"storage {uri!r} names no bucket; give s3://bucket/prefix")
        if "@" in bucket:  # what stands before it may be secret
            raise InputError(
                "a storage URI holds an @ in its bucket; give s3://bucket/prefix, and credentials by the AWS environment alone"
            )
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,255}", bucket):  # AWS takes fewer; other servers these
            raise InputError(
                f"storage {uri!r}: the bucket {bucket!r} is no name; give letters, digits, dots and hyphens, as s3://bucket/prefix"
            )
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.longest_s = longest_s
        super().__init__(f"s3://{bucket}/{self.prefix}".rstrip("/"))

    @property
    def _root(self) -> str:
        return f"{self.prefix}/" if self.prefix else ""

    def _key(self, path: str) -> str:
        return self._root + inner_path(path)

    def _call(self, path: str, seconds: float, call: Callable[[Any], T]) -> T:
        """`call` of the client; it must bear to be repeated."""
        return endure(lambda: call(client()), min(seconds, self.longest_s), f"{self.uri}/{path}")

    def read(self, path: str) -> bytes:
        def download(s3: Any) -> bytes:
            buffer = io.BytesIO()
            # download_fileobj asks again after a body that was cut short; get_object().read() does not.
            s3.download_fileobj(self.bucket, self._key(path), buffer)
            return buffer.getvalue()

        return self._call(path, READ_S, download)

    def write(self, path: str, data: bytes) -> None:
        self._call(path, WRITE_S, lambda s3: s3.upload_fileobj(io.BytesIO(data), self.bucket, self._key(path)))

    def put(self, path: str, file: str) -> None:
        def upload(s3: Any) -> None:
            with open(file, "rb") as source:  # at each try, as it is closed at the end of one; upload_file hides why it was refused
                s3.upload_fileobj(source, self.bucket, self._key(path))

        self._call(path, WRITE_S, upload)

    def create(self, path: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        try:
            self._call(path, WRITE_S, lambda s3: s3.put_object(Bucket=self.bucket, Key=self._key(path), Body=data, IfNoneMatch="*"))
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
                raise
            # A PUT whose answer was lost is repeated, and then refused by its own object.
            return self.read(path) == data
        return True

    def list(self, prefix: str = "") -> dict[str, int]:
        def pages(s3: Any) -> dict[str, int]:
            found: dict[str, int] = {}
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._root + prefix):
                found.update({item["Key"].removeprefix(self._root): item["Size"] for item in page.get("Contents", ())})
            return found

        found = self._call(prefix, READ_S, pages)
        # Some tools mark folders by empty objects whose name ends in a slash: they are no objects of ours.
        return {path: found[path] for path in sorted(found) if path and not path.endswith("/")}

    def some(self) -> str | None:
        def first(s3: Any) -> str | None:
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._root):
                for item in page.get("Contents", ()):
                    if not item["Key"].endswith("/"):
                        return str(item["Key"].removeprefix(self._root))
            return None

        return self._call("", READ_S, first)

    def clock_ahead_s(self) -> float | None:
        from botocore.exceptions import ClientError

        def ask(s3: Any) -> float | None:
            try:
                answer = s3.head_bucket(Bucket=self.bucket)
            except ClientError as error:  # a refusal has a date too
                answer = error.response
            return clock_ahead_s(answer["ResponseMetadata"]["HTTPHeaders"])

        return self._call("", READ_S, ask)

    def size(self, path: str) -> int | None:
        answer = self._head(path)
        return None if answer is None else int(answer["ContentLength"])

    def age_s(self, path: str) -> float | None:
        answer = self._head(path)
        if answer is None:
            return None
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return max(0.0, float((now - answer["LastModified"]).total_seconds()))

    def _head(self, path: str) -> Any | None:
        try:
            return self._call(path, READ_S, lambda s3: s3.head_object(Bucket=self.bucket, Key=self._key(path)))
        except FileNotFoundError:
            return None

    def delete(self, path: str) -> None:
        self._call(path, READ_S, lambda s3: s3.delete_object(Bucket=self.bucket, Key=self._key(path)))

    def at(self, sub: str) -> "S3Store":
        return S3Store(f"s3://{self.bucket}/{self._key(sub)}", self.longest_s) if sub else self

    def bounded(self, seconds: float) -> "S3Store":
        return S3Store(self.uri, seconds)

    def open(self, path: str) -> BinaryIO:
        where, options = f"{self.uri}/{path}", {"cache_type": "readahead", "block_size": READ_AHEAD_BYTES}
        file = endure(lambda: _files().open(f"{self.bucket}/{self._key(path)}", "rb", **options), READ_S, where)
        return cast(BinaryIO, _File(where, file))

    def uploads(self) -> tuple[Upload, ...]:
        """All uploads in parts below the prefix that were begun and not completed."""

        def pages(s3: Any) -> tuple[Upload, ...]:
            found = []
            for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self._root):
                now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
                for item in page.get("Uploads", ()):
                    num_bytes = _bytes_of_parts(s3, self.bucket, item)
                    age_s = (now - item["Initiated"]).total_seconds()
                    found.append(Upload(item["Key"].removeprefix(self._root), item["UploadId"], age_s, num_bytes))
            return tuple(found)

        return self._call("", READ_S, pages)

    def abort(self, upload: Upload) -> None:
        """Remove the parts of an upload that was not completed; it is no error when there is none."""
        target = {"Bucket": self.bucket, "Key": self._key(upload.path), "UploadId": upload.upload_id}
        self._call(upload.path, READ_S, lambda s3: _unless_ended(lambda: s3.abort_multipart_upload(**target)))


def _bytes_of_parts(s3: Any, bucket: str, item: dict[str, Any]) -> int:
    pages = s3.get_paginator("list_parts").paginate(Bucket=bucket, Key=item["Key"], UploadId=item["UploadId"])
    parts = _unless_ended(lambda: [part["Size"] for page in pages for part in page.get("Parts", ())])
    return sum(parts or ())


def _unless_ended(call: Callable[[], T]) -> T | None:
    """`call`, or None when the upload that it is about was completed or aborted meanwhile."""
    from botocore.exceptions import ClientError

    try:
        return call()
    except ClientError as error:
        if error.response["Error"].get("Code") != "NoSuchUpload":
            raise
        return None


class _File(io.RawIOBase):
    """An object, read in ranges by s3fs, each tried again for READ_S."""

    def __init__(self, where: str, file: Any) -> None:
        self._where, self._file = where, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))  # asks the server nothing

    def read(self, size: int | None = -1) -> bytes:
        start, left = self.tell(), self._file.size - self.tell()
        wanted = left if size is None or size < 0 else max(min(size, left), 0)

        def once() -> bytes:
            self._file.seek(start)
            data: bytes = self._file.read(wanted)
            if len(data) < wanted:
                raise ConnectionError(f"{len(data)} bytes came of {wanted}")
            return data

        return endure(once, READ_S, self._where)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _files() -> Any:
    """The s3fs file system of this process and thread (s3fs keeps it), its own retries left to `endure`."""
    import s3fs

    # Another process may have written since a listing, so none is kept.
    files = s3fs.S3FileSystem(
        use_listings_cache=False,
        config_kwargs={"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S, "retries": {"total_max_attempts": 1}},
    )
    files.retries = 1
    return files


def client() -> Any:
    """The boto3 client of this process: it is safe between threads, but its sockets must not pass through a fork."""
    return _client(os.getpid())


os.environ.setdefault("AWS_METADATA_SERVICE_NUM_ATTEMPTS", str(ROLE_TRIES))  # read by boto3 and by s3fs


@functools.cache
def _client(process: int) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"mode": "legacy", "total_max_attempts": CLIENT_TRIES},  # type: ignore[arg-type, unused-ignore]
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=32,
    )
    return boto3.session.Session().client("s3", config=config)
