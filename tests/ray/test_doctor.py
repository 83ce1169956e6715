"""`doctor` on a cluster of real nodes: a sound one, and then one with a fault of each kind planted.

Reference: what was planted where. Nodes under another clock are real raylets with libfaketime loaded into them and their workers.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import boto3
import pytest

from tests.s3.fixtures import clients_at
from tests.s3.server import S3Server, bucket_name
from tests.s3.strangers import RIGHTS, Stranger
from tests.short_run import ROOT


FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
AHEAD = {"FAKETIME": "+20m", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DISABLE_SHM": "1", "RAY_LD_PRELOAD_ON_WORKERS": "1"}
"""Only the time of day is another; what waits goes on by the true clock."""
LAST_S = 240.0
"""Longest that a run of `doctor` may take."""
ANSWER_S = 45
"""Within which nodes answer that can."""


@dataclass
class Machines:
    """A cluster of a head without CPUs, and its nodes by what is the matter with them."""

    cluster: Any
    folder: Path
    nodes: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, environment: dict[str, str], **options: Any) -> None:
        """Start a node in this environment."""
        with pytest.MonkeyPatch.context() as patch:
            for key, value in environment.items():
                patch.setenv(key, value)
            self.nodes[name] = self.cluster.add_node(object_store_memory=100 * 2**20, **options)

    def label(self, name: str) -> str:
        """As the table names the node."""
        return f"({self.nodes[name].node_id[:6]}"


@pytest.fixture(scope="module")
def machines(s3_server: S3Server) -> Iterator[Machines]:
    """A head and two sound nodes of two CPUs, which find the S3 server by their environment."""
    from ray.cluster_utils import Cluster

    folder = Path(tempfile.mkdtemp(prefix="mv", dir="/tmp"))  # short: it becomes names of sockets
    with clients_at(s3_server.environment()), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", str(ROOT))
        patient = {"health_check_failure_threshold": 60}  # the node that is frozen must not be taken for dead meanwhile
        sizes = {"num_cpus": 0, "object_store_memory": 100 * 2**20}
        head = {**sizes, "include_dashboard": False, "temp_dir": str(folder), "_system_config": patient}
        started = Machines(Cluster(initialize_head=True, head_node_args=head), folder)
        try:
            for name in ("first", "second"):
                started.add(name, {}, num_cpus=2)
            yield started
        finally:
            started.cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def full_disk(machines: Machines) -> Iterator[Path]:
    """A file system of 4 MB, to be filled."""
    disk = machines.folder / "spill"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system to fill takes the right to mount: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with (disk / "filling").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**20))
    assert shutil.disk_usage(disk).free == 0


def doctor(machines: Machines, *flags: str) -> tuple[int, list[list[str]], str]:
    """Exit status; the table by its cells, each with what to do as its last; all that was said."""
    command = [sys.executable, "-m", "jobs.doctor", *flags]
    environment = {**os.environ, "RAY_ADDRESS": machines.cluster.address}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LAST_S)
    rows: list[list[str]] = []
    for line in done.stdout.splitlines():
        if line.startswith(("ok", "told", "not checked", "WRONG")):
            rows.append([*re.split(r" {2,}", line, maxsplit=3), ""])
        elif "->" in line:
            rows[-1][-1] = line.partition("-> ")[2]
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, rows, done.stdout + done.stderr


def test_a_sound_cluster(machines: Machines) -> None:
    name = bucket_name()
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="videos/a.mp4", Body=b"video")
    status, rows, said = doctor(machines, "--storage", f"s3://{name}/runs", "--videos", f"s3://{name}/videos", "--workers", "2")
    assert status == 0, said
    told = {row[1]: row for row in rows}
    assert {check: row[0] for check, row in told.items()} == {
        "CPUs": "ok", "versions": "ok", "/dev/shm": "ok", "spill disk": "ok", "storage": "ok", "videos": "ok", "clock": "ok",
        "all-reduce": "told",
    }  # fmt: skip
    for check in ("versions", "/dev/shm", "spill disk", "storage", "videos", "clock"):
        assert told[check][2] == "all 3 nodes", told[check]
    assert f"av {av.__version__}" in told["versions"][3] and "4 decoding tasks fit" in told["CPUs"][3]
    rate = re.search(r"67.1 MB in (\d+) ms, ([\d.]+) GB/s", told["all-reduce"][3])
    assert rate and float(rate[2]) == pytest.approx(0.0671 / (float(rate[1]) / 1e3), rel=0.1), "of two workers each sends all bytes once"
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=name)["Contents"]] == ["videos/a.mp4"], "something was left there"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in said


def test_every_planted_fault_is_found(machines: Machines, s3_server: S3Server, full_disk: Path) -> None:
    """A clock 20 minutes ahead, a full spill disk, another version, a frozen node, a GPU that is not there; no right to write; few CPUs."""
    if FAKETIME is None:
        reason = "another clock takes libfaketime: apt-get install --no-install-recommends faketime"
        (pytest.fail if os.environ.get("MVGAN_REQUIRE_S3") == "1" else pytest.skip)(reason)
    older = machines.folder / "older"
    (older / "av").mkdir(parents=True)
    (older / "av/__init__.py").write_text('__version__ = "1.0.0"\n')
    machines.add("clock", {"LD_PRELOAD": str(FAKETIME), **AHEAD}, num_cpus=0)
    machines.add("disk", {}, num_cpus=0, num_gpus=1, object_spilling_directory=str(full_disk))
    machines.add("version", {"PYTHONPATH": f"{older}{os.pathsep}{ROOT}"}, num_cpus=0)
    machines.add("frozen", {}, num_cpus=0)
    fill(full_disk)
    stranger = Stranger(s3_server)
    name = stranger.bucket({"": ["list"], "/videos": ["read"], "/mine": list(RIGHTS)})
    stranger.client.put_object(Bucket=name, Key="videos/a.mp4", Body=b"video")
    raylet = machines.nodes["frozen"].all_processes["raylet"][0].process
    raylet.send_signal(signal.SIGSTOP)
    try:
        places = ["--storage", f"s3://{name}/runs", "--videos", f"s3://{name}/videos"]
        status, rows, said = doctor(machines, *places, "--workers", "9", "--gpu", "--answer-s", f"{ANSWER_S}")
    finally:
        raylet.send_signal(signal.SIGCONT)
    assert status == 1 and said.splitlines()[-1].startswith("error: doctor: 8 wrong, "), said
    assert all(row[4] for row in rows if row[0] == "WRONG"), "each says what to do"
    assert [row[3].endswith("/runs: write: access denied (AccessDenied)") for row in rows if row[:3:2] == ["WRONG", "the driver"]] == [True]
    wrong = {row[1]: row for row in rows if row[0] == "WRONG" and row[2] != "the driver"}
    assert sorted(wrong) == ["CPUs", "GPUs", "answers", "clock", "spill disk", "storage", "versions"]
    for check, node in (("clock", "clock"), ("spill disk", "disk"), ("GPUs", "disk"), ("versions", "version"), ("answers", "frozen")):
        assert machines.label(node) in wrong[check][2] and wrong[check][2].count("(") == 1, wrong[check]
    by_storage, by_head = (int(found) for found in re.findall(r"(\d+) s ahead of", wrong["clock"][3]))
    assert by_head == pytest.approx(1200, abs=2) and by_storage == pytest.approx(1200, abs=20), wrong["clock"]
    assert str(full_disk) in wrong["spill disk"][3] and "No space left" in wrong["spill disk"][3]
    assert wrong["versions"][3] == f"av 1.0.0, the driver has {av.__version__}"
    assert wrong["answers"][3] == f"no answer within {ANSWER_S} s"
    assert wrong["storage"][3].endswith("/runs: conditional put, write and delete: access denied (AccessDenied)")
    assert wrong["storage"][2].startswith("5 nodes, as "), "neither the one that is silent nor the one whose clock the server refuses"
    assert "9 workers take a CPU and a GPU each" in wrong["CPUs"][3] and "the cluster has 4 CPUs" in wrong["CPUs"][3]
    assert wrong["GPUs"][3] == "torch sees 0 of the 1 that Ray gives out"
    unchecked = {row[1]: row for row in rows if row[0] == "not checked"}
    assert unchecked.keys() == {"storage", "videos", "all-reduce"}
    assert machines.label("clock") in unchecked["storage"][2] and "by this clock" in unchecked["storage"][3]
    assert stranger.keys(name) == ["videos/a.mp4"], "something was left there"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in said
