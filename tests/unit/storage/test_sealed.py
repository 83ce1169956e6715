"""Sealed objects: what was written, or an error that says so. Reference: hashlib over what lies in the store."""

import hashlib
from pathlib import Path

import pytest

from mvgan.storage.commit import Damaged
from mvgan.storage.sealed import read_sealed, write_sealed
from mvgan.storage.uri import open_store


@pytest.mark.parametrize("data", [b"", b"figures", bytes(range(256)) * 3])
def test_round_trip(data: bytes, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write_sealed(store, "a/b", b"older, and longer than what comes in its place" * 100)
    write_sealed(store, "a/b", data)
    assert read_sealed(store, "a/b") == data
    assert store.read("a/b") == hashlib.sha256(data).digest() + data


def test_any_damage_is_told(tmp_path: Path) -> None:
    """Each byte changed, each shorter length, and more than was written."""
    store = open_store(tmp_path)
    write_sealed(store, "x", b"figures")
    whole = store.read("x")
    changed = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    for damaged in [*changed, *(whole[:i] for i in range(len(whole))), whole + b"\0"]:
        store.write("x", damaged)
        with pytest.raises(Damaged, match=rf"{tmp_path}/x is damaged"):
            read_sealed(store, "x")


def test_what_is_not_there_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_sealed(open_store(tmp_path), "x")


def test_on_s3(s3: str) -> None:
    store = open_store(f"{s3}/sealed")
    write_sealed(store, "x", b"figures")
    assert read_sealed(store, "x") == b"figures"
    store.write("x", store.read("x")[:-1])
    with pytest.raises(Damaged):
        read_sealed(store, "x")
    with pytest.raises(FileNotFoundError):
        read_sealed(store, "y")
