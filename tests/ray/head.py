"""A real head of Ray that is closed with a token, and what a user does there."""

import http.client
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.ports import free_ports
from tests.short_run import ROOT


BIN = Path(sys.executable).parent
LAST_S = 300.0
"""Longest that the head's start or a job may take."""


class Head:
    """A head of 4 CPUs as cluster/ starts it, with its dashboard on loopback and a token of its own. It finds S3 by its environment."""

    def __init__(self, folder: Path) -> None:
        port, self.client_port, dashboard, agent = free_ports(4)
        self.folder, token = folder, folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self.address, self.gcs, self.token = f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}", token.read_text()
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = {**ours, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self.environment["RAY_raylet_start_wait_time_s"] = "150"  # by default 30, which a busy machine takes
        self.environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # by default its end waits 30 s for its own idle processes
        line = [
            "ray", "start", "--head", "--block", f"--port={port}", f"--ray-client-server-port={self.client_port}",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
            "--num-cpus=4", "--object-store-memory=200000000", f"--temp-dir={folder}", "--disable-usage-stats",
        ]  # fmt: skip
        self.log = folder / "head.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(line, env=self.environment, stdout=log, stderr=log)

    def ready(self) -> None:
        """Wait until jobs are taken, and clients: their server starts on its own, seconds later where the machine is busy."""
        deadline = time.monotonic() + LAST_S
        while (
            "Ray runtime started" not in self.log.read_text()
            or self.ask("/api/jobs/", self.token)[0] != 200
            or not listens(self.client_port)
        ):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def ask(self, path: str, token: str | None, method: str = "GET") -> tuple[int, str]:
        """What the dashboard answers to a caller with this token: a status of HTTP, 0 for no answer, and the text."""
        return ask(f"{self.address}{path}", token, method)

    def job(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        """`ray job VERB ...` as a user gives it."""
        return self._run(["ray", "job", verb, "--address", self.address, *words])

    def submit(self, *words: str, checkout: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        """`python -m jobs.submit ...` as a user gives it in the folder of a checkout, who may have more in his environment."""
        return self._run([sys.executable, "-m", "jobs.submit", "--address", self.address, *words], environment, checkout)

    def _run(self, line: list[str], environment: dict[str, str] | None = None, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
        there = self.environment | (environment or {})
        return subprocess.run(line, cwd=folder, env=there, capture_output=True, text=True, timeout=LAST_S)

    def wait(self, name: str) -> str:
        """Until a job has ended: how."""
        deadline = time.monotonic() + LAST_S
        while not (
            found := [how for how in ("SUCCEEDED", "FAILED", "STOPPED") if f'"{how}"' in self.ask(f"/api/jobs/{name}", self.token)[1]]
        ):
            assert time.monotonic() < deadline, self.ask(f"/api/jobs/{name}/logs", self.token)
            time.sleep(0.2)
        return found[0]

    def stop(self) -> None:
        """End the head and all that it has started; one that has ended before is told with its log."""
        ended_before = self.process.poll() is not None
        self.process.terminate()
        self.process.wait(LAST_S)
        assert not ended_before, self.log.read_text()


def listens(port: int) -> bool:
    """Whether a port of loopback takes connections."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def ask(url: str, token: str | None, method: str = "GET") -> tuple[int, str]:
    """A status of HTTP, 0 for no answer in HTTP, and the text."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status), answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""


@contextmanager
def started() -> Iterator[Head]:
    """A head until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="mv", dir="/tmp"))  # short: it becomes names of sockets
    head = Head(folder)
    try:
        head.ready()
        yield head
    finally:
        head.stop()
        shutil.rmtree(folder, ignore_errors=True)
