"""A real head with Ray's real autoscaler, the first or the second one, whose nodes are processes of this machine (Ray's fake provider)."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from tests.kill_matrix import LAST_S, descendants
from tests.ports import free_ports
from tests.short_run import ROOT, SHORT


HEAD_ID = "f" * 51 + "00000"
NODE_CPUS, MOST_NODES = 2, 2


def config(address: str, second: bool) -> dict[str, Any]:
    """A cluster of a head that does no work and up to two nodes, which end when they have been idle for 12 s."""
    unused = (
        "initialization_commands setup_commands head_setup_commands worker_setup_commands head_start_ray_commands "
        "worker_start_ray_commands cluster_synced_files rsync_exclude rsync_filter"
    )
    empty: dict[str, Any] = {name: [] for name in unused.split()}
    provider = {
        "type": "external", "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True, "disable_node_updaters": True, "disable_launch_config_check": True, "launch_multiple": second,
        "gcs_address": address, "head_node_id": HEAD_ID,
    }  # fmt: skip
    types = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": NODE_CPUS, "object_store_memory": 10**8}, "node_config": {}, "max_workers": MOST_NODES},
    }
    return empty | {
        "cluster_name": "fake", "max_workers": MOST_NODES, "upscaling_speed": 1.0, "idle_timeout_minutes": 0.2, "provider": provider,
        "available_node_types": types, "head_node_type": "ray.head.default", "auth": {}, "file_mounts": {},
        "file_mounts_sync_continuously": False,
    }  # fmt: skip


class Autoscaled:
    """The head, and a connection of this process to it."""

    def __init__(self, folder: Path, second: bool) -> None:
        import ray

        port, client = free_ports(2)
        self.address = f"{ray.util.get_node_ip_address()}:{port}"
        file = folder / "cluster.yaml"
        file.write_text(yaml.safe_dump(config(self.address, second)))
        fake = {"RAY_FAKE_CLUSTER": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID, "RAY_CLOUD_INSTANCE_ID": HEAD_ID}
        fake["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # by default its end waits 30 s for its own idle processes
        version = {"RAY_enable_autoscaler_v2": "1"} if second else {}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        line = [
            "ray", "start", "--head", "--block", f"--port={port}", f"--ray-client-server-port={client}", "--num-cpus=0",
            "--object-store-memory=100000000", f"--autoscaling-config={file}", f"--temp-dir={folder}", "--include-dashboard=false",
            "--disable-usage-stats",
        ]  # fmt: skip
        self.log = folder / "head.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(line, env={**os.environ, **fake, **version, "PATH": path}, cwd=ROOT, stdout=log, stderr=log)
        self._connect()

    def _connect(self) -> None:
        import ray

        deadline = time.monotonic() + LAST_S
        while True:
            try:
                ray.init(address=self.address, logging_level="WARNING", log_to_driver=False)
                return
            except (ConnectionError, RuntimeError, ValueError):
                assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
                time.sleep(1)

    def nodes(self) -> int:
        """Nodes beside the head."""
        import ray

        return sum(node["Alive"] for node in ray.nodes()) - 1

    def stop(self) -> None:
        """End the head and all nodes."""
        import ray

        ray.shutdown()
        pids = descendants(self.process.pid)
        self.process.terminate()
        self.process.wait(LAST_S)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def autoscaled(second: bool) -> Iterator[Autoscaled]:
    """A cluster until the block ends."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    folder = Path(tempfile.mkdtemp(prefix="mv", dir="/tmp"))  # short: it becomes names of sockets
    started = Autoscaled(folder, second)
    try:
        yield started
    finally:
        started.stop()
        shutil.rmtree(folder, ignore_errors=True)


def job(cluster: Autoscaled, log: Path, *arguments: str) -> subprocess.Popen[str]:
    """A module of this repository that runs on the cluster; what it says goes to `log`."""
    with log.open("w") as file:
        command = [sys.executable, "-m", *arguments]
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "RAY_ADDRESS": cluster.address}, stdout=file, stderr=file, text=True)


def up_and_down(cluster: Autoscaled, folder: Path, data: Path) -> None:
    """A training that needs two nodes on a cluster that has none: two come, it ends, they go."""
    assert cluster.nodes() == 0
    place = ["--data", str(data), "--storage", str(folder), "--name", "grown", *SHORT, "--pairs.evaluations", "0", "--workers", "2"]
    started, counts = time.monotonic(), [(0.0, 0)]
    driver = job(cluster, folder / "grown.log", "jobs.pairs", *place)
    ended_s = 0.0
    while not ended_s or cluster.nodes():
        now_s, count = time.monotonic() - started, cluster.nodes()
        if count != counts[-1][1]:
            counts.append((now_s, count))
        if not ended_s and driver.poll() is not None:
            ended_s = now_s
        assert now_s < LAST_S, (counts, (folder / "grown.log").read_text())
        time.sleep(0.2)
    came = ", ".join(f"{count} at {at:.0f} s" for at, count in counts)
    print(f"nodes: {came}; ended at {ended_s:.0f} s, none at {time.monotonic() - started:.0f} s")
    assert driver.wait() == 0, (folder / "grown.log").read_text()
    assert (folder / "grown/export/generator.safetensors").exists()
    assert [count for _, count in counts if count == MOST_NODES]


def refused(cluster: Autoscaled, folder: Path, data: Path) -> None:
    """What no number of its nodes can hold is refused with a reason, and nothing is launched for it."""
    place = ["--data", str(data), "--storage", str(folder), "--name", "refused", "--workers", "3", "--pairs.batch", "16"]
    started = time.monotonic()
    driver = job(cluster, folder / "refused.log", "jobs.pairs", *place, "--preset", "smoke", "--start-s", str(LAST_S))
    assert driver.wait(LAST_S) == 2, (folder / "refused.log").read_text()
    print(f"refused after {time.monotonic() - started:.1f} s, the start of the command included")
    last = (folder / "refused.log").read_text().splitlines()[-1]
    assert last.startswith("error: 3 workers take a CPU each and their decoding 0.5 CPU each, 4.5 CPUs in all; the cluster has 0 CPUs"), (
        last
    )
    assert "autoscaler has no nodes for them" in last or "may have at most 2 nodes beside the head" in last
