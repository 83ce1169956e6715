"""Our stores on the real server: what `tests/unit` asks of a local folder and of an emulator, and a race."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from mvgan.config import InputError
from mvgan.storage.uri import Store, open_store
from tests.s3.proxy import FaultProxy, Rule
from tests.s3.server import S3Server
from tests.unit.storage import test_uri as contract


test_objects = contract.test_objects
test_a_large_object_comes_back_whole = contract.test_a_large_object_comes_back_whole
test_a_file_is_put_whole = contract.test_a_file_is_put_whole
test_list_is_sorted_recursive_and_by_prefix = contract.test_list_is_sorted_recursive_and_by_prefix
test_at_and_pickle = contract.test_at_and_pickle
test_create_keeps_the_first = contract.test_create_keeps_the_first
test_open_seeks = contract.test_open_seeks
test_parquet_through_open = contract.test_parquet_through_open


@pytest.fixture
def store(bucket: str) -> Store:
    return open_store(f"{bucket}/run 1/ü")


def test_a_race_of_creates_has_one_winner(store: Store) -> None:
    """Twelve at once, five times; the winner's bytes are there, and nobody else believes to have won."""
    barrier = threading.Barrier(12)

    def race(i: int) -> list[bool]:
        won = []
        for turn in range(5):
            barrier.wait()
            won.append(store.create(f"race/{turn}", f"{i}".encode()))
        return won

    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(race, range(12)))
    for turn in range(5):
        winners = [i for i in range(12) if results[i][turn]]
        assert [str(i).encode() for i in winners] == [store.read(f"race/{turn}")]


def test_more_than_a_page_of_objects_is_listed(store: Store) -> None:
    """This server gives at most 100 at a time."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: store.write(f"many/{i:04d}", b"x"), range(230)))
    assert store.list("many/") == {f"many/{i:04d}": 1 for i in range(230)}


def test_no_access_is_the_users_mistake(store: Store, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" * 8)
    for call in (lambda: store.read("a"), lambda: store.write("a", b""), lambda: store.create("a", b""), store.list):
        with pytest.raises(InputError, match="access denied"):
            call()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)


def test_no_bucket_is_the_users_mistake(bucket: str) -> None:
    with pytest.raises(InputError, match="no bucket"):
        open_store("s3://absent-bucket/x").write("a", b"")


@pytest.mark.parametrize("status", [403, 500])
@pytest.mark.usefixtures("impatient")
def test_a_refused_write_raises(store: Store, fault_proxy: FaultProxy, status: int, tmp_path: Path) -> None:
    """Small objects and those in parts; Ray's own upload passes this over, see test_ray_upload.py."""
    fault_proxy.fail(Rule("status", method="PUT", status=status))
    for size in (10, 9 * 2**20):
        with pytest.raises((InputError, ConnectionError)):
            store.write("data", bytes(size))
        (tmp_path / "file").write_bytes(bytes(size))
        with pytest.raises((InputError, ConnectionError)):
            store.put("data", str(tmp_path / "file"))
        with pytest.raises((InputError, ConnectionError)):
            store.create("record", bytes(size))
    fault_proxy.heal()
    assert store.list() == {}


def test_a_lost_completion_of_an_upload_in_parts(store: Store, fault_proxy: FaultProxy) -> None:
    data = bytes(range(256)) * (9 * 2**12)
    lost = Rule("lost_ack", method="POST", match="uploadId=", count=1)
    fault_proxy.fail(lost)
    store.write("large", data)
    assert lost.reached.is_set()
    assert store.read("large") == data


def test_the_client_is_that_of_the_environment(store: Store, s3_server: S3Server) -> None:
    """Nothing of the user's own settings reaches the tests."""
    assert boto3.client("s3").meta.endpoint_url == s3_server.endpoint
