"""The Ray cluster of a verb: the one it was submitted to, or one of its own on this machine."""

import logging
import math
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import ray
from ray._private.state import available_resources_per_node

from mvgan.config import Ended, InputError, Resources
from mvgan.distributed.stop import stoppable


logger = logging.getLogger(__name__)


class NoRoom(Ended):
    """Others have the room on the cluster, or nodes are away: what waits longer may get it."""


DECODE_CPUS = 0.5
"""Logical CPUs that one decoding task asks for. It keeps a whole core busy; with half of one, small clusters have room for it."""

STREAM_THREADS = ("StreamingExecutor", "iter_threaded")
"""Names of Ray Data's threads in a process that reads a stream."""

STREAM_END_S = 30.0
"""Most that these may take to end."""

LEADER_BYTES = 512 * 2**20
"""Ray's memory that the process asks for that leads a training of a sweep."""

VMSTAT = Path("/proc/vmstat")


@contextmanager
def session(resources: Resources) -> Iterator[None]:
    """Connect to the cluster named by RAY_ADDRESS, or start one on this machine and end it afterwards.

    Raises Stop in the block at SIGTERM, and after `resources.max_hours`.
    """
    if not ray.is_initialized():
        _connect(resources)
        for name in ("ray.data", "ray.train"):
            logging.getLogger(name).setLevel(logging.ERROR)
    with stoppable(resources.max_hours):
        try:
            yield
        finally:
            shut_down()


def shut_down() -> None:
    """End this process's connection to Ray, and the cluster if it is its own.

    First waits for the threads of streams that were left before their end: one that asks Ray for something afterwards
    starts a cluster anew, or ends this process at once.
    """
    deadline = time.monotonic() + STREAM_END_S
    while any(thread.name.startswith(STREAM_THREADS) for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.05)
    ray.shutdown()


def _connect(resources: Resources) -> None:
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        return
    # Leaders, consoles and streams take no CPU, so there are more processes than Ray expects on so few, of which it would warn.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
    ray.init(
        address="local",
        num_cpus=own_cpus(resources),
        object_store_memory=own_store_bytes(resources),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )


def own_cpus(resources: Resources) -> int:
    """Logical CPUs of a cluster of this process's own: one a worker, and the machine's for decoding and tasks beside them."""
    return resources.workers + max(2, len(os.sched_getaffinity(0)))


def own_store_bytes(resources: Resources) -> int:
    """Object store of such a cluster: 2 GiB a worker, of which the streams fill a part, and at most an eighth of the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(2 * resources.workers * 2**30, memory // 8)


@dataclass(frozen=True)
class Node:
    """What a node has, or has free."""

    cpus: float
    gpus: float
    memory: float = 0
    """Ray's own count of bytes, of which only those who ask for some take any."""


def nodes() -> tuple[list[Node], list[Node]]:
    """The nodes of the cluster that are alive: what each has, and what of it is free."""
    free = available_resources_per_node()
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [_node(node["Resources"]) for node in alive], [_node(free.get(node["NodeID"], {})) for node in alive]


def _node(resources: dict[str, float]) -> Node:
    return Node(resources.get("CPU", 0), resources.get("GPU", 0), resources.get("memory", 0))


def places(cluster: Sequence[Node], resources: Resources) -> int:
    """How many workers the nodes hold: each takes a CPU, and with `resources.gpu` a GPU, of one node."""
    return sum(int(min(node.cpus, node.gpus) if resources.gpu else node.cpus) for node in cluster)


def fits(cluster: Sequence[Node], resources: Resources) -> bool:
    """Whether the nodes hold the workers and, beside them, a decoding task for each: otherwise training would hang."""
    return places(cluster, resources) >= resources.workers and decoding_places(cluster, resources) >= resources.workers


def decoding_places(cluster: Sequence[Node], resources: Resources) -> int:
    """How many decoding tasks the nodes hold beside the workers, below 0 where not even these have room."""
    return sum(math.floor(node.cpus / DECODE_CPUS) for node in cluster) - round(resources.workers / DECODE_CPUS)


def teams(cluster: Sequence[Node], resources: Resources) -> int:
    """How many trainings with these `resources` the nodes hold at once."""
    count = 0
    while fits(cluster, replace(resources, workers=(count + 1) * resources.workers)):
        count += 1
    return count


def leaders(cluster: Sequence[Node]) -> int:
    """How many leaders of trainings the nodes hold, by the memory that these ask for."""
    return sum(int(node.memory // LEADER_BYTES) for node in cluster)


def workers_here(here: Node, local: int, resources: Resources, trainings: int) -> int:
    """Most workers at once on the node `here`, of so many trainings with these `resources`, one of which has `local` there."""
    return max(local, min(local + (trainings - 1) * resources.workers, teams([here], replace(resources, workers=1))))


def this_node() -> Node:
    """What the node has that this process is on."""
    mine = ray.get_runtime_context().get_node_id()
    return next(_node(node["Resources"]) for node in ray.nodes() if node["NodeID"] == mine)


def check_room(resources: Resources, longest_s: float | None = None) -> None:
    """Wait until workers and decoding have room beside what else runs on the cluster, at most `longest_s`, or `resources.start_s`.

    Raises InputError when the whole cluster is too small, NoRoom when others did not make room in time.
    """
    whole, free = nodes()
    if not fits(whole, resources):
        raise InputError(f"{demand(resources)}; the cluster has {describe(whole, resources)}; lower --workers or add nodes")
    longest_s = resources.start_s if longest_s is None else longest_s
    deadline = time.monotonic() + longest_s
    if not fits(free, resources):
        logger.info("waits for room on the cluster: %s; free are %s", demand(resources), describe(free, resources))
    while not fits(free, resources):
        if time.monotonic() > deadline:
            raise NoRoom(
                f"no room within {longest_s:g} s: {demand(resources)}; free are {describe(free, resources)}; "
                "end other jobs, add nodes, lower --workers, or raise --start-s"
            )
        time.sleep(1)
        _, free = nodes()


class RoomLost:
    """Watches that the cluster still has room for `resources`: Ray would wait for ever for nodes that are lost."""

    def __init__(self, resources: Resources) -> None:
        self.resources, self.since = resources, 0.0

    def forget(self) -> None:
        """Something was done: there is room."""
        self.since = 0.0

    def check(self) -> None:
        """Raise NoRoom when the room has been missing for `resources.start_s`."""
        whole, _ = nodes()
        if fits(whole, self.resources):
            self.since = 0.0
            return
        self.since = self.since or time.monotonic()
        if time.monotonic() > self.since + self.resources.start_s:
            raise NoRoom(
                f"nodes were lost and did not come back within {self.resources.start_s:g} s: {demand(self.resources)}; the cluster has "
                f"{describe(whole, self.resources)}; add nodes, or raise --start-s; the same command goes on"
            )


def demand(resources: Resources) -> str:
    """What workers and decoding need, in words."""
    each = "a CPU and a GPU" if resources.gpu else "a CPU"
    return f"{resources.workers} workers take {each} each and their decoding {DECODE_CPUS:g} CPU each, {_total(resources):g} CPUs in all"


def _total(resources: Resources) -> float:
    return resources.workers * (1 + DECODE_CPUS)


def describe(cluster: Sequence[Node], resources: Resources) -> str:
    """What nodes have, in words."""
    cpus, gpus = sum(node.cpus for node in cluster), sum(node.gpus for node in cluster)
    said = f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if resources.gpu or gpus else "")
    return f"{said} on {len(cluster)} nodes, places for {places(cluster, resources)} workers"


def oom_kills() -> int:
    """How many processes the kernel of this machine has killed for want of memory since it started."""
    found = re.search(r"^oom_kill (\d+)$", VMSTAT.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def worker_threads(workers_here: int) -> int:
    """CPU threads of a worker on a node with `workers_here` of them; one core is left to decoding and to Ray.

    Threads that wait for each other at every layer crawl as soon as another process takes one of their cores: on 2 cores
    a step with two threads took 10 times as long beside other work, one with one thread no longer.
    """
    return max(1, (len(os.sched_getaffinity(0)) - 1) // workers_here)
