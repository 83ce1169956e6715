"""Many trainings side by side, as Ray Tune leads them in a sweep."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mvgan.config import InputError, Run
from mvgan.scaling.cluster import Cluster
from mvgan.scaling.simulate import Answer


LEADER_BYTES, POLL_S, BEAT_S, LOG_S = 512 * 2**20, 2.0, 5.0, 30.0
"""As in `mvgan.distributed` and `mvgan.storage.holder`; a test compares."""
TICK_FILES = 5
"""Objects that a record writes: metrics, events, two pictures and the log."""


@dataclass(frozen=True)
class Sweep:
    """So many trainings, each as `Answer` has one."""

    at_once: int
    hours: float
    dollars: float
    requests_per_s: float
    """Of those who lead and of what they write, pairs left out."""
    bottleneck: str


def sweep(answer: Answer, run: Run, trials: int, nodes: int, cluster: Cluster) -> Sweep:
    """Raises InputError when the nodes hold no training at all."""
    at_once = min(trials, nodes * cluster.gpus_per_node // answer.workers)
    if trials < 1 or at_once < 1:
        raise InputError(
            f"--trials {trials} of {answer.workers} workers on --sweep-nodes {nodes} of {cluster.gpus_per_node} GPUs: nothing would train; "
            "give both, with a node for each training at least"
        )
    # Requests that S3 grants are those of all together; all else each training has of its own.
    shared = {name: resource.pairs_per_s / at_once for resource in answer.resources if (name := resource.name) == "S3 requests"}
    rate = min(answer.pairs_per_s, *shared.values()) if shared else answer.pairs_per_s
    hours = math.ceil(trials / at_once) * run.pairs.total_kimg * 1000 / rate / 3600
    records = rate / (run.pairs.tick_kimg * 1000)
    requests = at_once * (1 / POLL_S + 1 / BEAT_S + 1 / LOG_S + TICK_FILES * records)
    bottleneck = answer.bottleneck if rate == answer.pairs_per_s else "S3 requests"
    return Sweep(at_once, hours, hours * nodes * cluster.node_dollars, requests, bottleneck)


def sweep_lines(answer: Answer, run: Run, trials: int, nodes: int, cluster: Cluster) -> Iterator[str]:
    """The sweep for people."""
    found = sweep(answer, run, trials, nodes, cluster)
    cost = f", ${found.dollars:,.0f}" if cluster.node_dollars else ""
    held = found.at_once * LEADER_BYTES / 2**30
    yield f"sweep: {trials} pair generators, {found.at_once} at once: {found.hours:,.1f} h{cost}; bottleneck: {found.bottleneck}"
    yield f"  beside reading {found.requests_per_s:,.1f} requests/s; leaders hold {held:g} GiB of Ray's memory"
