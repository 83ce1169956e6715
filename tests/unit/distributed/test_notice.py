"""A notice of the cloud becomes a drain.

Reference: a server that answers as the metadata services are documented to, and Ray's command line.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from ray.scripts.scripts import drain_node

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
