"""As on a cluster: a head that is closed with a token, `ray job submit` with data and run on S3, stopped midway, submitted again.

Reference: the run of the same settings in a local folder that nobody stopped.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvgan.storage.commit import Commits
from mvgan.storage.uri import open_store
from tests.s3.server import free_ports
from tests.short_run import ROOT, SHORT


BIN = Path(sys.executable).parent
LAST_S = 300.0
"""Longest that the head's start or a job may take."""


class Head:
    """A head of 4 CPUs on loopback, with its dashboard and a token of its own. It finds S3 by its environment."""

    def __init__(self, folder: Path) -> None:
        port, client, self.dashboard = free_ports(3)
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self.address, self.token = f"http://127.0.0.1:{self.dashboard}", token.read_text()
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = {**ours, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        line = [
            "ray", "start", "--head", "--block", f"--port={port}", f"--ray-client-server-port={client}", "--node-ip-address=127.0.0.1",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}", "--num-cpus=4", "--object-store-memory=200000000",
            f"--temp-dir={folder}", "--disable-usage-stats",
        ]  # fmt: skip
        self.log = folder / "head.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(line, env=self.environment, stdout=log, stderr=log)

    def ready(self) -> None:
        """Wait until jobs are taken."""
        deadline = time.monotonic() + LAST_S
        while self.status(self.token) != 200:
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def status(self, token: str | None) -> int:
        """What the jobs' API answers to a caller with this token: a status of HTTP, 0 for no answer."""
        request = urllib.request.Request(f"{self.address}/api/jobs/", headers={"Authorization": f"Bearer {token}"} if token else {})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def job(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        """`ray job VERB ...` as a user gives it."""
        line = ["ray", "job", verb, "--address", self.address, *words]
        return subprocess.run(line, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=LAST_S)

    def stop(self) -> None:
        """End the head and all that it has started."""
        self.process.terminate()
        self.process.wait(LAST_S)


@pytest.fixture
def head(bucket: str) -> Iterator[Head]:
    """A head that finds the server of `bucket`."""
    folder = Path(tempfile.mkdtemp(prefix="mv", dir="/tmp"))  # short: it becomes names of sockets
    started = Head(folder)
    try:
        started.ready()
        yield started
    finally:
        started.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_submitted_job_that_was_stopped_goes_on(head: Head, bucket: str, clips: Path, finished: tuple[Path, str]) -> None:
    assert [head.status(token) for token in (None, "0" * 64)] == [401, 403], "a caller without the token, and with another one"
    for path in clips.iterdir():
        open_store(f"{bucket}/videos").write(path.name, path.read_bytes())
    entry = ["python", "-m", "jobs.pipeline", *SHORT, "--videos", f"{bucket}/videos", "--storage", f"{bucket}/runs", "--name", "submitted"]
    first = head.job("submit", "--no-wait", "--submission-id", "first", "--working-dir", ".", "--", *entry)
    assert first.returncode == 0, first.stderr + first.stdout
    run, deadline = open_store(f"{bucket}/runs/submitted"), time.monotonic() + LAST_S
    while not run.list("pairs/commits/"):
        assert time.monotonic() < deadline, head.job("logs", "first").stdout
        time.sleep(0.1)
    head.job("stop", "first")
    assert "was stopped" in head.job("status", "first").stdout
    assert not run.exists("export/latent.safetensors"), "stopped too late"
    stopped_at = Commits(run, "pairs").records()[0].images

    again = head.job("submit", "--submission-id", "again", "--working-dir", ".", "--", *entry)
    assert again.returncode == 0, again.stderr + again.stdout
    assert f"goes on from its commit at {stopped_at}" in again.stdout
    assert f"{run.uri}/report.html" in again.stdout
    for name in ("generator", "codes", "latent"):
        assert run.read(f"export/{name}.safetensors") == (finished[0] / f"export/{name}.safetensors").read_bytes(), name
    told = again.stdout + again.stderr + head.job("list").stdout
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in told and head.token not in told
