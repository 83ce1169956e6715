"""What evaluations keep in the run folder, so that nothing is computed twice: the figures of each part, with a hash that tells damage."""

import io
from collections.abc import Sequence

import numpy as np

from mvgan.storage.commit import Damaged
from mvgan.storage.sealed import read_sealed, write_sealed
from mvgan.storage.uri import Store


FOLDER = "evaluation/features"

Arrays = dict[str, np.ndarray]
"""Figures by their names."""


class Lost(ValueError):
    """Figures that were kept are gone or damaged."""


def keys(store: Store) -> set[str]:
    """The keys under which something is kept."""
    return {path.rpartition("/")[2].partition(".")[0] for path in store.list(f"{FOLDER}/")}


def keep(store: Store, key: str, figures: Arrays) -> None:
    """Keep `figures` under `key`, as a sealed npz."""
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **figures)
    write_sealed(store, _path(key), out.getvalue())


def kept(store: Store, key: str, names: Sequence[str] | None = None) -> Arrays:
    """What is kept under `key`: the figures of these names, or all. Raises Lost."""
    try:
        data = read_sealed(store, _path(key))
    except FileNotFoundError:
        raise Lost(f"{store.uri}/{_path(key)} is gone") from None
    except Damaged as error:
        raise Lost(str(error)) from None
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in (arrays.files if names is None else names)}


def _path(key: str) -> str:
    return f"{FOLDER}/{key}.figures"
