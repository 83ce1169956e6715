"""From a URI to its store: a local folder or an S3 prefix behind the same few operations."""

import os
import posixpath
import re

from mvgan.config import InputError
from mvgan.storage.local import LocalStore
from mvgan.storage.s3 import S3Store
from mvgan.storage.store import Store, Unreachable, inner_path


__all__ = ["LocalStore", "S3Store", "Store", "Unreachable", "inner_path", "open_store", "place_of", "read_file", "seen_from"]


def open_store(uri: str | os.PathLike[str]) -> Store:
    """The store at a local path or at `s3://bucket/prefix`; it need not exist. Raises InputError for other schemes."""
    text = os.fspath(uri)
    if not text:
        raise InputError("the storage URI is empty; give a folder or s3://bucket/prefix")
    if re.match(r"[a-z][a-z0-9+.-]+:(/(?!/)|$)", text):  # what is left of s3:// without its bucket, among others
        raise InputError(f"storage {text!r} looks like a URI without its two slashes or its bucket; give s3://bucket/prefix, or ./{text}")
    if "://" not in text:
        return LocalStore(text)
    if text.startswith("s3://"):
        return S3Store(text)
    raise InputError(f"storage {text!r} has the scheme {text.split('://')[0]!r}; give a local path or s3://bucket/prefix")


def seen_from(uri: str, path: str) -> str:
    """The URI that `path` names as seen from the folder at `uri`: itself, or one beside that folder (`../../pairs/0`)."""
    if not path.startswith("../"):
        return path
    scheme, slashes, place = uri.rpartition("://")
    return scheme + slashes + posixpath.normpath(f"{place}/{path}")


def place_of(uri: str) -> tuple[Store, str]:
    """The store that the file at a path or s3:// URI is in, and its name there, which is empty where none is named."""
    folder, _, name = uri.rpartition("/")
    return open_store(folder or ("/" if uri.startswith("/") else ".")), "" if name in (".", "..") else name


def read_file(uri: str, what: str) -> bytes:
    """The file at a path or s3:// URI. Raises InputError, with `what` it should be, when there is none."""
    missing = InputError(f"there is no file {uri}; give the path or s3:// URI of {what}")
    store, name = place_of(uri)
    if not name:
        raise missing
    try:
        return store.read(name)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise missing from None
