"""Stores: the same behaviour of a local folder and of S3 (moto's server, an outside implementation of the S3 API)."""

import os
import pickle
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from mvgan.config import InputError
from mvgan.storage import s3 as s3_store
from mvgan.storage.uri import LocalStore, S3Store, Store, inner_path, open_store


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(tmp_path / "root")
    return open_store(f"{request.getfixturevalue('s3')}/{request.node.name}/")


def test_ages(store: Store) -> None:
    """Reference: this process's clock, and for a local file the time that the system was told."""
    assert store.age_s("a/b") is None
    store.write("a/b", b"x")
    age_s = store.age_s("a/b")
    assert age_s is not None and 0 <= age_s < 60
    if isinstance(store, LocalStore):
        os.utime(f"{store.uri}/a/b", (0, time.time() - 1000))
        assert store.age_s("a/b") == pytest.approx(1000, abs=30)


def test_the_age_on_s3_is_by_the_servers_clock(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: answers with the dates of a server whose clock is years from ours."""
    answer = {"LastModified": datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)}
    date = {"ResponseMetadata": {"HTTPHeaders": {"date": "Sat, 03 Feb 2001 04:07:08 GMT"}}}
    monkeypatch.setattr(s3_store.client(), "head_object", lambda **place: answer | date)
    assert open_store(f"{s3}/ages").age_s("a") == 122


def test_objects(store: Store) -> None:
    assert store.list() == {}
    assert store.size("a/b") is None
    assert not store.exists("a/b")
    with pytest.raises(FileNotFoundError):
        store.read("a/b")
    store.delete("a/b")
    store.write("a/b", b"old")
    store.write("a/b", b"newer")
    assert (store.read("a/b"), store.size("a/b"), store.exists("a/b")) == (b"newer", 5, True)
    assert not store.exists("a")  # a folder is no object
    store.delete("a/b")
    assert not store.exists("a/b")
    assert store.list() == {}


def test_a_large_object_comes_back_whole(store: Store) -> None:
    data = os.urandom(9 * 2**20)  # more than one part of an S3 upload
    store.write("large", data)
    assert store.read("large") == data


def test_a_file_is_put_whole(store: Store, tmp_path: Path) -> None:
    """In place of what is there; the file stays as it is."""
    data = os.urandom(9 * 2**20)  # more than one part of an S3 upload
    (tmp_path / "file").write_bytes(data)
    store.write("a/b", b"old")
    store.put("a/b", str(tmp_path / "file"))
    assert store.read("a/b") == data == (tmp_path / "file").read_bytes()
    assert list(store.list()) == ["a/b"]


def test_a_file_is_put_without_its_bytes_in_memory(tmp_path: Path) -> None:
    """Locally, by Python's own count, in which the server of other tests may be; S3's client sends parts of 8 MB."""
    with open(tmp_path / "file", "wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    try:
        LocalStore(tmp_path / "root").put("a", str(tmp_path / "file"))
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert (tmp_path / "root/a").stat().st_size == 64 << 20


def test_list_is_sorted_recursive_and_by_prefix(store: Store) -> None:
    for path in ("b", "a/2", "a/10", "a/c/1", "ab"):
        store.write(path, path.encode())
    assert list(store.list().items()) == [("a/10", 4), ("a/2", 3), ("a/c/1", 5), ("ab", 2), ("b", 1)]
    assert list(store.list("a")) == ["a/10", "a/2", "a/c/1", "ab"]
    assert list(store.list("a/")) == ["a/10", "a/2", "a/c/1"]
    assert list(store.list("a/1")) == ["a/10"]
    assert store.list("none/") == {}
    assert store.at("a").list() == {"10": 4, "2": 3, "c/1": 5}


def test_at_and_pickle(store: Store) -> None:
    inner = store.at("x/y")
    inner.write("z", b"1")
    assert store.read("x/y/z") == b"1"
    assert inner.uri == f"{store.uri}/x/y"
    copy = pickle.loads(pickle.dumps(inner))
    assert (copy, copy.read("z")) == (inner, b"1")
    assert store.at("") == store


def test_create_keeps_the_first(store: Store) -> None:
    assert store.create("claim", b"first")
    assert not store.create("claim", b"second")
    assert store.read("claim") == b"first"


def test_a_race_of_creates_has_one_winner(tmp_path: Path) -> None:
    """Locally only: moto promises nothing about simultaneous requests."""
    store = LocalStore(tmp_path)
    barrier = threading.Barrier(8)

    def race(i: int) -> list[bool]:
        won = []
        for turn in range(20):
            barrier.wait()
            won.append(store.create(f"race/{turn}", f"{i}".encode()))
        return won

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(race, range(8)))
    for turn in range(20):
        winners = [i for i in range(8) if results[i][turn]]
        assert [str(i).encode() for i in winners] == [store.read(f"race/{turn}")]
    assert len(os.listdir(tmp_path / "race")) == 20  # no temporary file is left


def test_folders_come_and_go_under_simultaneous_writes_and_deletes(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    def work(i: int) -> None:
        for _ in range(30):
            store.write(f"shared/{i}", b"x")
            store.delete(f"shared/{i}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert os.listdir(tmp_path) == []


def test_what_a_killed_write_leaves_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda source, target: os.link(source, tmp_path / ".kept.0123.tmp"))
        store.write("file", b"never renamed")
    assert os.listdir(tmp_path) == [".kept.0123.tmp"]
    assert store.list() == {}


def test_an_unreadable_folder_does_not_look_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        LocalStore(tmp_path).list()


def test_open_seeks(store: Store) -> None:
    store.write("a/file", bytes(range(200)))
    with store.open("a/file") as file:
        assert file.seek(-4, 2) == 196
        assert file.read() == bytes(range(196, 200))
        file.seek(7)
        assert file.read(3) == bytes([7, 8, 9])
    store.write("a/file", b"replaced")
    with store.open("a/file") as file:
        assert file.read() == b"replaced"
    with pytest.raises(FileNotFoundError):
        store.open("a/none")


def test_parquet_through_open(store: Store) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"n": list(range(100))}), sink, row_group_size=10)
    store.write("t.parquet", sink.getvalue().to_pybytes())
    with store.open("t.parquet") as file:
        assert pq.ParquetFile(file).read_row_group(7)["n"].to_pylist() == list(range(70, 80))


def test_s3_counts_the_very_same_object_as_ours(s3: str) -> None:
    # The client repeats a PUT whose answer was lost; the server then answers 412 to what is our own object.
    store = open_store(f"{s3}/lost-answer")
    assert store.create("claim", b"mine")
    assert store.create("claim", b"mine")
    assert not store.create("claim", b"yours")


def test_s3_without_the_bucket_is_the_users_mistake(s3: str) -> None:
    store = open_store("s3://absent/x")
    for call in (store.list, partial(store.write, "a", b""), partial(store.create, "a", b"")):
        with pytest.raises(InputError, match="no bucket 'absent'"):
            call()


def test_s3_leaves_out_folder_markers(s3: str) -> None:
    s3_store.client().put_object(Bucket="bucket", Key="marked/folder/", Body=b"")
    assert open_store(f"{s3}/marked").list() == {}


def test_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("some/dir").uri == str(tmp_path / "some/dir")
    assert isinstance(open_store("s3://b"), S3Store)
    assert open_store("s3://b/").uri == "s3://b"
    assert open_store("s3://b/x/y/").uri == "s3://b/x/y"
    mistakes = {"gs://b/x": "scheme 'gs'", "s3://": "names no bucket", "": "empty", "s3:/b/x": "two slashes", "s3:": "its bucket"}
    for wrong, words in mistakes.items():
        with pytest.raises(InputError, match=words):
            open_store(wrong)
    assert open_store("./s3:/b").uri == str(tmp_path / "s3:/b") and open_store("a:b/c").uri == str(tmp_path / "a:b/c")


@pytest.mark.parametrize("uri", ["s3://my bucket/x", "s3://a\nb/x", "s3://a:b/x", "s3://" + 256 * "a", "s3://ä/x"])
def test_a_bucket_that_is_no_name_is_refused(uri: str) -> None:
    """Botocore's own words for it have two lines."""
    with pytest.raises(InputError, match=r"is no name; give letters") as raised:
        open_store(uri)
    assert "\n" not in str(raised.value)


def test_a_password_in_a_uri_is_not_repeated() -> None:
    with pytest.raises(InputError, match="holds an @ in its bucket") as raised:
        open_store("s3://me:hunter22@bucket/x")
    assert "hunter22" not in str(raised.value)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".", "a/./b"])
def test_paths_stay_below_the_root(path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no path below the root"):
        inner_path(path)
    with pytest.raises(ValueError, match="no path below the root"):
        LocalStore(tmp_path).write(path, b"")


def test_a_failed_local_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    store.write("file", b"old")

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    for call in (store.write, store.create):
        with pytest.raises(OSError, match="No space"):
            call("file", b"new")
    assert store.read("file") == b"old"
    assert os.listdir(tmp_path) == ["file"]
