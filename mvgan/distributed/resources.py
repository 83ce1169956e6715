"""The Ray cluster of a verb: the one it was submitted to, or one of its own on this machine."""

import logging
import math
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray._private.state import available_resources_per_node, state
from ray.data._internal.stats import get_or_create_stats_actor

from mvgan.config import Ended, InputError, Resources
from mvgan.distributed.autoscaler import ANSWER_S, Ask, Bundle, Growth, answers_requests, growth, refuses
from mvgan.distributed.stop import raise_asked, stoppable


logger = logging.getLogger(__name__)


class NoRoom(Ended):
    """Others have the room on the cluster, or nodes are away: what waits longer may get it."""


DECODE_CPUS = 0.5
"""Logical CPUs that one decoding task asks for. It keeps a whole core busy; with half of one, small clusters have room for it."""

STREAM_THREADS = ("StreamingExecutor", "iter_threaded")
"""Names of Ray Data's threads in a process that reads a stream."""

STREAM_END_S = 30.0
"""Most that these may take to end."""

SETTLE_S = 15.0
"""Time that room for all workers gets to come once there is room for some: a node that replaces a lost one, or the next of a few."""

VERDICT_S = 8.0
"""Time for an autoscaler to say that it cannot fulfil a request; it looks every 5 s."""

POLL_S = 1.0
"""Time between two looks for room."""

CONNECT_S, CONNECT_AT_ONCE = 2.0, 32
"""Time for a node to take a connection, and how many are asked at once."""

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
        # Ray Data has an actor that outlives all jobs on the node of its first user, which no autoscaler could end then.
        get_or_create_stats_actor()
        return
    # Leaders, consoles and streams take no CPU, so there are more processes than Ray expects on so few, of which it would warn.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "150")  # by default 30, which the start takes where the machine has other work
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
    """The nodes of the cluster that are alive, and are not being taken away: what each has, and what of it is free."""
    return _both(_staying())


def standing() -> tuple[list[Node], list[Node]]:
    """The same without nodes that take no connection: those that were just lost, which Ray notices a while later."""
    there = answering()
    return _both([node for node in _staying() if node["NodeID"] in there])


def answering() -> set[str]:
    """Ids of the nodes that take a connection."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    with ThreadPoolExecutor(CONNECT_AT_ONCE) as pool:
        return {node["NodeID"] for node, answers in zip(alive, pool.map(_answers, alive), strict=True) if answers}


def draining() -> dict[str, int]:
    """Ids of nodes that are being taken away, each with its deadline in ms since 1970, 0 if it has none."""
    nodes: dict[str, int] = state.get_draining_nodes()
    return nodes


def _staying() -> list[dict[str, Any]]:
    leaving = draining()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]


def _both(some: list[dict[str, Any]]) -> tuple[list[Node], list[Node]]:
    free = available_resources_per_node()
    return [_node(node["Resources"]) for node in some], [_node(free.get(node["NodeID"], {})) for node in some]


def _answers(node: dict[str, Any]) -> bool:
    """Whether the raylet of a node takes a connection."""
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), CONNECT_S).close()
    except OSError:
        return False
    return True


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


def least(resources: Resources) -> Resources:
    """The same with the fewest workers that do."""
    return replace(resources, workers=resources.min_workers or resources.workers)


def most_workers(cluster: Sequence[Node], resources: Resources) -> int:
    """How many workers the nodes hold with their decoding: at most `resources.workers`, and 0 if fewer than the fewest that do."""
    fewest = least(resources).workers
    return next((count for count in range(resources.workers, fewest - 1, -1) if fits(cluster, replace(resources, workers=count))), 0)


def bundles(resources: Resources) -> list[Bundle]:
    """What workers, and then their decoding, ask of nodes."""
    worker: Bundle = {"CPU": 1, "GPU": 1} if resources.gpu else {"CPU": 1}
    return [worker] * resources.workers + [{"CPU": DECODE_CPUS}] * resources.workers


def check_cluster(resources: Resources) -> None:
    """Raise InputError when the whole cluster, with all that its autoscaler may add, is too small for the fewest workers that do."""
    whole, _ = nodes()
    fewest = least(resources)
    if fits(whole, fewest):
        return
    more = ""
    if answers_requests():
        if not _refused(bundles(fewest)):
            return
        more = ", and its autoscaler has no nodes for them"
    elif (grown := growth()) is not None:
        if could_hold(grown, fewest):
            return
        more = f", and may have at most {grown.most} nodes beside the head"
    raise InputError(f"{demand(fewest)}; the cluster has {describe(whole, fewest)}{more}; lower --workers or add nodes")


def could_hold(grown: Growth, resources: Resources) -> bool:
    """Whether a cluster with the right ones of the nodes that it may have, beside a head that does no work, holds the workers."""
    every = [_node(kind.resources) for kind in grown.kinds for _ in range(kind.most)]
    every.sort(key=lambda node: (min(node.cpus, node.gpus) if resources.gpu else node.cpus, node.cpus), reverse=True)
    # Nodes for workers first, and the others for their decoding.
    by_cpus = [sorted(every[first:], key=lambda node: node.cpus, reverse=True) for first in range(min(grown.most, len(every)) + 1)]
    return any(fits(every[:first] + others[: grown.most - first], resources) for first, others in enumerate(by_cpus))


def _refused(wanted: list[Bundle]) -> bool:
    """Ask the autoscaler, and give it time to say that it has no such nodes."""
    ask = Ask(wanted)
    try:
        ask.arrived(ANSWER_S)
        deadline = time.monotonic() + VERDICT_S
        while not (refused := refuses(wanted)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return refused
    finally:
        ask.withdraw()


def await_room(resources: Resources, longest_s: float | None = None) -> int:
    """Wait until workers and decoding have room beside what else runs on the cluster, at most `longest_s`, or `resources.start_s`.

    Returns how many workers there is room for: `resources.workers`, or, when that does not come within SETTLE_S of it, fewer, if they
    do. An autoscaler is asked for what is missing. Raises NoRoom when there was none in time, and the stop that was noted meanwhile.
    """
    longest_s = resources.start_s if longest_s is None else longest_s
    deadline, ask, some_since = time.monotonic() + longest_s, None, math.inf
    try:
        while (count := most_workers((now := standing())[1], resources)) < resources.workers:
            whole, free = (describe(some, resources) for some in now)
            if count and time.monotonic() >= (some_since := min(some_since, time.monotonic())) + SETTLE_S:
                return count
            if not count:
                some_since = math.inf
            if time.monotonic() > deadline:
                raise NoRoom(
                    f"no room within {longest_s:g} s: {demand(least(resources))}; the cluster has {whole}, free are {free}; "
                    "end other jobs, add nodes, lower --workers, or raise --start-s; the same command goes on"
                )
            if ask is None:
                logger.info("waits for room on the cluster: %s; free are %s", demand(resources), free)
                ask = Ask(bundles(resources))
            raise_asked()
            ask.keep()
            time.sleep(POLL_S)
        return count
    finally:
        if ask is not None:
            ask.withdraw()


def check_room(resources: Resources, longest_s: float | None = None) -> None:
    """Wait for room as `await_room` does. Raises InputError as `check_cluster` does, NoRoom when others did not make room in time."""
    check_cluster(resources)
    await_room(resources, longest_s)


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
