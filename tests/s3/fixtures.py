"""The real S3 server, the fault proxy before it, and a whole local run to compare with, as fixtures of all tests.

`s3_server` needs Debian's packages of Ceph (see server.py). Where they are missing its tests are skipped with the line
that installs them; `.ci/run` installs them, and sets MVGAN_REQUIRE_S3=1, by which the tests fail instead.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
import s3fs

from mvgan.storage import endure, s3
from tests.s3.proxy import FaultProxy
from tests.s3.server import S3Server, bucket_name, missing_packages
from tests.short_run import run


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The server, started once for all tests that ask for it."""
    missing = missing_packages()
    if missing:
        reason = f"no S3 server here: apt-get install --no-install-recommends {' '.join(missing)}"
        if os.environ.get("MVGAN_REQUIRE_S3") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[str]:
    """The URI of an empty bucket of the server; boto3, s3fs and pyarrow find it by the environment, as do child processes."""
    with clients_at(s3_server.environment()):
        name = bucket_name()
        boto3.client("s3").create_bucket(Bucket=name)
        yield f"s3://{name}"


@pytest.fixture
def fault_proxy(s3_server: S3Server, bucket: str) -> Iterator[FaultProxy]:
    """A proxy before the server, through which all clients go from here on; until told otherwise it changes nothing."""
    proxy = FaultProxy(s3_server.endpoint)
    with clients_at(s3_server.environment(proxy.endpoint)):
        yield proxy
    proxy.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own S3 operations give up after a third of a second: where a fault lasts for ever, only the end of trying counts."""
    monkeypatch.setattr(s3, "READ_S", 0.3)
    monkeypatch.setattr(s3, "WRITE_S", 0.3)
    monkeypatch.setattr(s3, "CLIENT_TRIES", 1)
    monkeypatch.setattr(endure, "FIRST_WAIT_S", 0.1)
    _forget_clients()


@contextmanager
def clients_at(environment: Mapping[str, str]) -> Iterator[None]:
    """Clients made inside the block see this AWS environment and nothing of the user's; those made before are forgotten."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("AWS_") or name.lower() in ("http_proxy", "all_proxy"):
                patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        _forget_clients()
        yield
    _forget_clients()


def _forget_clients() -> None:
    s3._client.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def finished(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A whole run in a local folder: the folder, which tests must not change, and what the run printed."""
    storage = tmp_path_factory.mktemp("runs")
    done = run("--videos", str(clips), "--storage", str(storage), "--name", "whole")
    assert done.returncode == 0, done.stderr + done.stdout
    return storage / "whole", done.stdout
