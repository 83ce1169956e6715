"""Training that something kills at a given moment, on a Ray cluster of several nodes: what tests/ray and tests/soak share.

Every run is a user's command in a process of its own. The reference is a run of the same settings that nobody disturbed.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvgan.distributed.notice import drain_command
from tests.short_run import ROOT, SHORT


SETTINGS = [
    *SHORT, "--pairs.evaluations", "0", "--pairs.commit-kimg", "0.08",
    "--video.total-clips", "240", "--video.commit-clips", "32",
    # All that has a state or random numbers of its own.
    "--deterministic", "--network.noise", "--pairs.pl-weight", "2", "--pairs.style-mixing", "0.9", "--pairs.mirror",
    "--pairs.augment", "ada", "--pairs.ada-kimg", "1", "--pairs.ada-interval", "2", "--pairs.ada-target", "0.05",
]  # fmt: skip
RESOURCES = ["--workers", "2", "--threads", "1"]
EXPORTS = {"pairs": "generator.safetensors", "video": "latent.safetensors"}
LAST_S = 300.0
"""Longest that any of these short runs may take."""


def descendants(pid: int) -> list[int]:
    """Process ids of all that `pid` has started, directly or not."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found[1:]


def title(pid: int) -> str:
    """What a process calls itself; empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Machines:
    """A cluster of a head without CPUs and nodes of `cpus` each, on this machine.

    With half a CPU of each of two nodes in use (`hold`) the two workers of a run come on both, each with room for decoding, as Ray
    would otherwise pack them on one.
    """

    def __init__(self, temporary: str, num_nodes: int, cpus: int, health: dict[str, int]) -> None:
        import ray
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": health, "temp_dir": temporary}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=self.cluster.address, logging_level="WARNING", log_to_driver=False)
        self.nodes: list[Any] = []
        self.held: dict[str, Any] = {}
        self.cpus = cpus
        for _ in range(num_nodes):
            self.add()

    def add(self) -> None:
        """One more node. Only the main thread may do so."""
        self.nodes.append(self.cluster.add_node(num_cpus=self.cpus))

    def hold(self) -> None:
        """Use half a CPU of each node, also of those that came later."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        for node in self.nodes:
            if node.node_id not in self.held:
                place = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
                holder: Any = ray.remote(num_cpus=0.5)(_Holder).options(scheduling_strategy=place).remote()
                ray.get(holder.ready.remote(), timeout=LAST_S)
                self.held[node.node_id] = holder

    def lose(self, node: Any) -> None:
        """Kill all processes of a node, as a power cut does."""
        raylet = self._raylet(node)
        pids = [raylet, *descendants(raylet)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.cluster.remove_node(node, allow_graceful=False)  # only to collect the dead: a zombie would look alive
        self.nodes.remove(node)

    def drain(self, node: Any, deadline_s: int) -> None:
        """Say that a node will be taken away, as a cloud does of a spot machine."""
        line = drain_command(deadline_s, "--address", self.cluster.address, "--node-id", node.node_id)
        subprocess.run(line, env=self.environment(), check=True, timeout=LAST_S)

    def workers(self, node: Any = None) -> list[int]:
        """Process ids of the training workers of a node, or of all."""
        raylets = [self._raylet(one) for one in ([node] if node else self.nodes)]
        return [pid for raylet in raylets for pid in descendants(raylet) if "RayTrainWorker" in title(pid)]

    def node_of_a_worker(self) -> Any:
        """A node on which a training worker runs."""
        return next(node for node in self.nodes if self.workers(node))

    def _raylet(self, node: Any) -> int:
        return int(node.all_processes["raylet"][0].process.pid)

    def environment(self) -> dict[str, str]:
        """For a command that runs on this cluster."""
        return {**os.environ, "RAY_ADDRESS": self.cluster.address}


class _Holder:
    def ready(self) -> bool:
        return True


QUICK = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5, "health_check_timeout_ms": 10000}
"""A lost node is noticed sooner than by Ray's defaults, and a busy one is not taken for lost."""


@contextmanager
def machines(num_nodes: int = 2, cpus: int = 2, health: dict[str, int] = QUICK) -> Iterator[Machines]:
    """A cluster until the block ends; an empty `health` leaves Ray its defaults."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    temporary = tempfile.mkdtemp(prefix="mv", dir="/tmp")  # short: it becomes names of sockets
    started = Machines(temporary, num_nodes, cpus, health)
    try:
        yield started
    finally:
        ray.shutdown()
        started.cluster.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass
class Scene:
    """A cluster, shards, and a run on them that nobody disturbed, below `root`."""

    machines: Machines
    data: Path
    root: Path

    @property
    def whole(self) -> Path:
        """The undisturbed run."""
        return self.root / "whole"

    def start(self, stage: str, name: str, *flags: str) -> subprocess.Popen[str]:
        """The command that trains a stage of the run `name`; what it says goes to `<name>.log`."""
        self.machines.hold()
        folder = self.root / name
        if stage == "video" and not folder.exists():
            shutil.copytree(self.whole, folder, ignore=shutil.ignore_patterns("video", "latent.safetensors", "logs"))
        place = ["--data", str(self.data), "--storage", str(self.root), "--name", name, *SETTINGS]
        return self.launch(name, [f"jobs.{stage}", *(["--run", str(folder)] if stage == "video" else place), *RESOURCES, *flags])

    def launch(self, name: str, arguments: Sequence[str]) -> subprocess.Popen[str]:
        """A module of this repository that runs on the cluster."""
        with (self.root / f"{name}.log").open("a") as log:
            command = [sys.executable, "-m", *arguments]
            return subprocess.Popen(command, cwd=ROOT, env=self.machines.environment(), stdout=log, stderr=log, text=True)

    def said(self, name: str) -> str:
        """All that the commands of a run have said."""
        return (self.root / f"{name}.log").read_text()

    def make_whole(self, job: str = "pipeline") -> None:
        """Run all stages undisturbed, or the first alone."""
        self.machines.hold()
        place = ["--data", str(self.data), "--storage", str(self.root), "--name", "whole", *SETTINGS]
        driver = self.launch("whole", [f"jobs.{job}", *place, *RESOURCES])
        assert driver.wait(LAST_S) == 0, self.said("whole")
        ticks = [json.loads(line) for line in (self.whole / "pairs/metrics.jsonl").read_text().splitlines()]
        assert all(max(tick[name] for tick in ticks) > 0 for name in ("augment_p", "pl_mean")), "there is nothing to lose"

    def wait_for(self, stage: str, name: str, images: int, driver: subprocess.Popen[str]) -> None:
        """Until the newest commit of a stage is at `images` or more; 0 is the stage's begin."""
        folder, deadline = self.root / name / stage, time.monotonic() + LAST_S
        while not _reached(folder, images):
            assert driver.poll() is None and time.monotonic() < deadline, f"{images} never came: {self.said(name)}"
            time.sleep(0.01)

    def sha256(self, stage: str, name: str = "whole") -> str:
        """Hash of the weights that a stage has exported."""
        return hashlib.sha256((self.root / name / "export" / EXPORTS[stage]).read_bytes()).hexdigest()


def _reached(folder: Path, images: int) -> bool:
    if not images:
        return bool(list(folder.glob("epochs/*.inherits.json")))
    return any(int(path.name.split("-")[0]) >= images for path in folder.glob("commits/*.json"))


def _kill_worker(scene: Scene, driver: subprocess.Popen[str]) -> None:
    os.kill(_some_worker(scene), signal.SIGKILL)


def _kill_driver(scene: Scene, driver: subprocess.Popen[str]) -> None:
    driver.kill()
    driver.wait()


def _stop_driver(scene: Scene, driver: subprocess.Popen[str]) -> None:
    """SIGTERM, as by `ray job stop`: it ends by itself, once the workers have committed where they are if they have begun."""
    driver.terminate()
    assert driver.wait(LAST_S) == 1


def _lose_node(scene: Scene, driver: subprocess.Popen[str]) -> None:
    _some_worker(scene)
    scene.machines.lose(scene.machines.node_of_a_worker())
    scene.machines.add()


def _some_worker(scene: Scene) -> int:
    """A worker; at the begin of a stage there may be none yet."""
    deadline = time.monotonic() + LAST_S
    while not (found := scene.machines.workers()):
        assert time.monotonic() < deadline, "no worker came"
        time.sleep(0.01)
    return found[0]


KILLS: dict[str, Callable[[Scene, subprocess.Popen[str]], None]] = {
    "worker": _kill_worker,
    "driver": _kill_driver,
    "stop": _stop_driver,
    "node": _lose_node,
}


def killed_run(scene: Scene, victim: str, stage: str, images: int) -> str:
    """Train a stage, kill `victim` once a commit at `images` is there, go on to the end; the hash of the weights."""
    name = f"{stage}-{victim}-{images}"
    driver = scene.start(stage, name)
    scene.wait_for(stage, name, images, driver)
    KILLS[victim](scene, driver)
    assert not list((scene.root / name / "export").glob(EXPORTS[stage])), "killed too late"
    if victim == "stop" and images:
        assert re.search(r"^error: \w+: stopped by SIGTERM; committed at \d+ \w+, and the same command goes on", scene.said(name), re.M)
    if victim in ("driver", "stop"):
        driver = scene.start(stage, name)
    assert driver.wait(LAST_S) == 0, scene.said(name)
    if images:
        assert "goes on from its commit at" in scene.said(name)
    return scene.sha256(stage, name)
