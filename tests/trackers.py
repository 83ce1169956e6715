"""What the tests of trackers share: MLflow's own server, a run that is killed, and what must then be on a tracker."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mvgan.storage.run import RunFolder


ROOT = Path(__file__).parents[1]
DEADLINE_S = 120.0


def needs(*modules: str) -> None:
    """Skip where one of `modules` is not installed, or fail where trackers are required."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing and os.environ.get("MVGAN_REQUIRE_TRACKERS"):
        pytest.fail(f"{', '.join(missing)} not installed, and MVGAN_REQUIRE_TRACKERS is set")
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install -e '.[dev]'")


def until(there: Callable[[], Any]) -> Any:
    """What `there` gives, once that is something."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := there()):
        assert time.monotonic() < deadline, "did not come"
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """MLflow's own tracking server as a process, with its store in `folder`; gives its address."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--default-artifact-root", f"{folder}/artifacts"]
    with (folder / "log").open("a") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"

    def healthy() -> bool:
        assert server.poll() is None, (folder / "log").read_text()
        try:
            return bool(urllib.request.urlopen(f"{uri}/health", timeout=2).read() == b"OK")
        except (urllib.error.URLError, OSError):
            return False

    try:
        until(healthy)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def kill_after(folder: RunFolder, track: str, steps: int, told: Callable[[], Any]) -> None:
    """Train stage `pairs` in a process of its own, which is killed (SIGKILL) after `steps`, once the tracker was `told`."""
    command = [sys.executable, "-m", "tests.unit.train.tracked_worker", folder.uri, track, str(steps)]
    worker = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)

    def known() -> Any:
        assert worker.poll() is None, f"ended with {worker.poll()}"
        return told()

    try:
        until(known)
    finally:
        worker.kill()
        worker.wait()


def history(folder: RunFolder, stage: str) -> list[dict[str, Any]]:
    """The records of a stage, from its file."""
    return [json.loads(line) for line in folder.store.read(f"{stage}/metrics.jsonl").decode().splitlines()]


def points(folder: RunFolder, stage: str, figure: str) -> list[tuple[int, float]]:
    """What must be on a tracker: the images and values of a figure, in their order."""
    return [(record["images"], record[figure]) for record in history(folder, stage) if figure in record]
