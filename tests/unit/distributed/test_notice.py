"""A notice of the cloud becomes a drain.

Reference: a server that answers as the metadata services are documented to, and Ray's command line.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from ray.scripts.scripts import drain_node

from mvgan.config import Ended
from mvgan.distributed import notice


class Metadata(BaseHTTPRequestHandler):
    """IMDSv2 and Google's: both refuse who lacks their header."""

    ends: datetime | None = None
    preempted = "FALSE"
    broken = False

    def do_PUT(self) -> None:
        asked = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
        self.answer(200 if asked and self.path == "/latest/api/token" else 400, "the-token")

    def do_GET(self) -> None:
        if self.broken:
            return self.answer(503, "busy")
        if self.path == "/computeMetadata/v1/instance/preempted" and self.headers.get("Metadata-Flavor") == "Google":
            return self.answer(200, self.preempted)
        if self.headers.get("X-aws-ec2-metadata-token") != "the-token" or self.path != "/latest/meta-data/spot/instance-action":
            return self.answer(401, "")
        if self.ends is None:
            return self.answer(404, "")
        self.answer(200, json.dumps({"action": "terminate", "time": f"{self.ends:%Y-%m-%dT%H:%M:%SZ}"}))

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None:
        """Nothing."""


@contextmanager
def serving(**values: Any) -> Iterator[str]:
    kind = type("Given", (Metadata,), values)
    server = HTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_aws() -> None:
    with serving() as service:
        assert notice.seconds_left("aws", service) is None
    with serving(ends=datetime.now(UTC) + timedelta(seconds=120)) as service:
        left = notice.seconds_left("aws", service)
        assert left is not None and 90 < left <= 120
    with serving(ends=datetime.now(UTC) - timedelta(seconds=9)) as service:
        assert notice.seconds_left("aws", service) == 0


def test_google() -> None:
    with serving() as service:
        assert notice.seconds_left("gcp", service) is None
    with serving(preempted="TRUE") as service:
        assert notice.seconds_left("gcp", service) == 30


@pytest.mark.parametrize("cloud", notice.SERVICES)
def test_a_service_that_fails_is_no_notice(cloud: str) -> None:
    with serving(broken=True) as service, pytest.raises(OSError):
        notice.seconds_left(cloud, service)


def test_the_command_is_one_that_ray_knows() -> None:
    command = notice.drain_command(29.7, "--node-id", "ab" * 28)
    assert Path(command[0]).is_file() and command[1] == "drain-node"
    told = drain_node.make_context("drain-node", command[2:]).params
    assert (told["deadline_remaining_seconds"], told["reason"]) == (29, "DRAIN_NODE_REASON_PREEMPTION")


def test_it_waits_for_a_notice_drains_until_that_succeeds_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks: list[float | Exception | None] = [None, OSError("busy"), OSError("busy"), 119.0, 114.0]
    drained: list[list[str]] = []

    def look(cloud: str, service: str) -> float | None:
        found = looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    class Ran:
        @property
        def returncode(self) -> int:
            return len(drained) % 2

    monkeypatch.setattr(notice, "seconds_left", look)
    monkeypatch.setattr(notice.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(notice.subprocess, "run", lambda command, check: (drained.append(command), Ran())[1])
    notice.main(["aws"])
    assert drained == [notice.drain_command(119), notice.drain_command(114)]
    assert capsys.readouterr().err.count("busy") == 1


NODE, OTHER = "a5" * 28, "5a" * 28
Raylet = Callable[[str], subprocess.Popen[bytes]]
Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def raylet() -> Iterator[Raylet]:
    """Starts a process that looks to others as the raylet of a node does."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(node: str) -> subprocess.Popen[bytes]:
        begun.append(subprocess.Popen(["/x/raylet", "-c", "import time; time.sleep(600)", f"--node_id={node}"], executable=sys.executable))
        while node not in notice.nodes_here():  # until then it is a copy of this process
            time.sleep(0.01)
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


@pytest.fixture
def drains(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], list[list[str]]]:
    """Has `answer` in place of Ray's command; returns the list of commands that are given to it."""

    def install(answer: Run) -> list[list[str]]:
        given: list[list[str]] = []

        def run(command: list[str], check: bool, timeout: float) -> subprocess.CompletedProcess[bytes]:
            given.append(command)
            return answer(command, timeout)

        monkeypatch.setattr(notice.subprocess, "run", run)
        return given

    return install


def test_now_drains_and_returns_once_the_raylet_has_ended(raylet: Raylet, drains: Callable[[Run], list[list[str]]]) -> None:
    """The first command fails, as one does that finds the head busy."""
    process, other = raylet(NODE), raylet(OTHER)
    assert {NODE, OTHER} <= notice.nodes_here()

    def answer(command: list[str], timeout: float) -> subprocess.CompletedProcess[bytes]:
        if len(given) == 2:
            threading.Timer(1.0, process.terminate).start()
            threading.Timer(1.2, process.wait).start()
        return subprocess.CompletedProcess(command, 1 if len(given) == 1 else 0)

    given = drains(answer)
    notice.main(["now", "--seconds", "60", "--node-id", NODE])
    assert NODE not in notice.nodes_here() and process.wait(20) is not None and other.poll() is None
    told = [drain_node.make_context("drain-node", command[2:]).params for command in given]
    assert [(params["node_id"], params["reason"]) for params in told] == [(NODE, "DRAIN_NODE_REASON_PREEMPTION")] * 2
    assert all(50 < params["deadline_remaining_seconds"] < 60 for params in told)


@pytest.mark.parametrize(("taken", "said"), [(True, "its work has not left within 2 s"), (False, "Ray did not take the drain within 2 s")])
def test_now_waits_no_longer_than_the_machine_stays(
    taken: bool, said: str, raylet: Raylet, drains: Callable[[Run], list[list[str]]]
) -> None:
    """Work that does not leave, and a head that does not answer."""

    def answer(command: list[str], timeout: float) -> subprocess.CompletedProcess[bytes]:
        if taken:
            return subprocess.CompletedProcess(command, 0)
        time.sleep(timeout)
        raise subprocess.TimeoutExpired(command, timeout)

    process, given, began = raylet(NODE), drains(answer), time.monotonic()
    with pytest.raises(Ended, match=said):
        notice.main(["now", "--seconds", "2", "--node-id", NODE])
    assert 2 <= time.monotonic() - began < 20 and process.poll() is None and len(given) == 1


def test_now_without_a_node_returns_at_once(drains: Callable[[Run], list[list[str]]]) -> None:
    """As where the autoscaler has drained it before, because it was idle."""
    given = drains(lambda command, timeout: subprocess.CompletedProcess(command, 0))
    notice.main(["now", "--seconds", "60", "--node-id", NODE])
    assert not given


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["now"], "now takes --seconds"), (["now", "--seconds", "0"], "now takes --seconds"),
        (["now", "--seconds", "9", "--service", "x"], "asks no --service"),
        (["aws", "--seconds", "9"], "--seconds and --node-id go with now"),
        (["gcp", "--node-id", NODE], "--seconds and --node-id go with now"),
    ],
)  # fmt: skip
def test_flags_that_do_not_belong_together_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        notice.main(words)
    assert stop.value.code == 2 and said in capsys.readouterr().err
