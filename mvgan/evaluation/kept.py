"""What evaluations keep in the run folder, so that nothing is computed twice: the figures of each part, with a hash that tells damage."""

import hashlib
import io
from collections.abc import Sequence

import numpy as np

from mvgan.storage.uri import Store


FOLDER = "evaluation/features"

Arrays = dict[str, np.ndarray]
"""Figures by their names."""

_DIGEST = hashlib.sha256().digest_size


class Lost(ValueError):
    """Figures that were kept are gone or damaged."""


def keys(store: Store) -> set[str]:
    """The keys under which something is kept."""
    return {path.rpartition("/")[2].partition(".")[0] for path in store.list(f"{FOLDER}/")}


def keep(store: Store, key: str, figures: Arrays) -> None:
    """Keep `figures` under `key`: a file of their SHA-256 and then an npz, each a whole object."""
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **figures)
    data = out.getvalue()
    store.write(_path(key), hashlib.sha256(data).digest() + data)


def kept(store: Store, key: str, names: Sequence[str] | None = None) -> Arrays:
    """What is kept under `key`: the figures of these names, or all. Raises Lost."""
    try:
        data = store.read(_path(key))
    except FileNotFoundError:
        raise Lost(f"{store.uri}/{_path(key)} is gone") from None
    if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
        raise Lost(f"{store.uri}/{_path(key)} is damaged")
    with np.load(io.BytesIO(data[_DIGEST:]), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in (arrays.files if names is None else names)}


def _path(key: str) -> str:
    return f"{FOLDER}/{key}.figures"
