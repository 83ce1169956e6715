"""A whole object with the SHA-256 of its content in front: damage is told when it is read, with no record elsewhere."""

import hashlib

from mvgan.storage.commit import Damaged
from mvgan.storage.store import Store


_DIGEST = hashlib.sha256().digest_size


def write_sealed(store: Store, path: str, data: bytes) -> None:
    """Put `data` at `path`, behind its SHA-256, in place of what is there."""
    store.write(path, hashlib.sha256(data).digest() + data)


def read_sealed(store: Store, path: str) -> bytes:
    """The data at `path`. Raises FileNotFoundError, and Damaged when they are not what was written."""
    sealed = store.read(path)
    if hashlib.sha256(sealed[_DIGEST:]).digest() != sealed[:_DIGEST]:
        raise Damaged(f"{store.uri}/{path} is damaged")
    return sealed[_DIGEST:]
