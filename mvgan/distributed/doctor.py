"""Examines a cluster: a probe on each node, what they say side by side, and an all-reduce of workers where Ray Train places them."""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mvgan.config import Resources
from mvgan.distributed.autoscaler import HEAD, Ask
from mvgan.distributed.console import Console, console
from mvgan.distributed.errors import failure_of
from mvgan.distributed.probe import Facts, Probe
from mvgan.distributed.resources import Node, NoRoom, bundles, decoding_places, demand, describe, fits, nodes, places
from mvgan.distributed.tasks import ALL_VISIBLE
from mvgan.distributed.watchdog import began, bound, limit_ray_train, run_once
from mvgan.doctor.exchange import all_reduce_s
from mvgan.doctor.facts import Access, begin, new_folder, remove, versions
from mvgan.doctor.findings import Finding, access, clock, exchange, gpus, same_versions, shared_memory, spill_disk
from mvgan.storage.uri import open_store


PINGS, PING_S = 5, 5.0
"""How often a node is asked for its time, of which the quickest answer counts, and the most that one may take."""
REQUEST_SHARE = 0.2
"""How long a request to the storage is tried again, of the time in which a node must have answered."""
POLL_S = 1.0
DRIVER = "the driver"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is to be examined, and how long it may take."""

    resources: Resources
    storage: str | None
    """Where runs are to be kept; None leaves it out."""
    videos: str | None
    """What is only read; None leaves it out."""
    wait_s: float
    """How long nodes are waited for that the cluster must start first."""
    answer_s: float
    """Within which a node must have answered each of a few questions, and the workers must have begun."""


@dataclass(frozen=True)
class Place:
    """A node and the probe that stands there."""

    name: str
    node: dict[str, Any]
    probe: Any

    @property
    def is_head(self) -> bool:
        """Whether Ray's head is there."""
        return HEAD in self.node["Resources"]


def examine(plan: Plan) -> tuple[list[Finding], int]:
    """All findings, and the number of nodes that were asked. Nothing is left on the cluster or on the storage."""
    with _grown(plan):
        found = [cpus(*nodes(), plan.resources)]
        with _probes(plan) as stand:
            facts, silent = _facts(stand, plan)
            found += silent
            answering = [place for place in stand if place.name in facts]
            found += _of_nodes(answering, facts, plan)
            found += _of_storage(answering, plan)
    found.append(_all_reduce(plan))  # Ray Train asks for its workers itself, and requests add up
    return found, len(stand)


@contextmanager
def _grown(plan: Plan) -> Iterator[None]:
    """Ask a cluster that can grow for the room, and wait for it; the request holds until the block ends, however long that takes."""
    if not plan.wait_s:
        yield
        return
    ask, ended = Ask(bundles(plan.resources)), threading.Event()

    def keep() -> None:
        while not ended.wait(POLL_S):
            ask.keep()

    keeper = threading.Thread(target=keep, name="mvgan-ask", daemon=True)
    keeper.start()
    try:
        has = describe(nodes()[0], plan.resources)
        logger.info("waits up to %g s for nodes: %s; the cluster has %s", plan.wait_s, demand(plan.resources), has)
        deadline = time.monotonic() + plan.wait_s
        while not fits(nodes()[0], plan.resources) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        yield
    finally:
        ended.set()
        keeper.join()  # else it might repeat what has been withdrawn
        ask.withdraw()


@contextmanager
def _probes(plan: Plan) -> Iterator[list[Place]]:
    """A probe on each node that is alive, until the block ends."""
    # Ray hides GPUs from who asks for none, unless it is told not to.
    options: dict[str, Any] = {"runtime_env": {"env_vars": {ALL_VISIBLE: "1"}}} if plan.resources.gpu else {}
    stand = []
    for node in ray.nodes():
        if node["Alive"]:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            probe: Any = ray.remote(num_cpus=0)(Probe)
            name = f"{node['NodeManagerAddress']} ({node['NodeID'][:6]}{', head' if HEAD in node['Resources'] else ''})"
            stand.append(Place(name, node, probe.options(scheduling_strategy=here, **options).remote()))
    try:
        yield stand
    finally:
        for place in stand:
            ray.kill(place.probe)


def _answers(asked: Mapping[str, Any], longest_s: float) -> tuple[dict[str, Any], dict[str, str]]:
    """What the nodes answer within `longest_s`, and in words why others do not."""
    if asked:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=longest_s)
    answers, silent = {}, {}
    for name, answer in asked.items():
        try:
            answers[name] = ray.get(answer, timeout=0)
        except ray.exceptions.GetTimeoutError:
            silent[name] = f"no answer within {longest_s:g} s"
        except ray.exceptions.RayError as error:
            silent[name] = _words(error)
    return answers, silent


def _words(error: BaseException) -> str:
    return failure_of(error, [], []).words


def _facts(stand: Sequence[Place], plan: Plan) -> tuple[dict[str, Facts], list[Finding]]:
    """What each node has, by its name, and the nodes that did not say."""
    facts, silent = _answers({place.name: place.probe.facts.remote(plan.resources.gpu) for place in stand}, plan.answer_s)
    advice = "look at raylet.err and at the newest worker-*.err in Ray's logs there; replace the node, or give more --answer-s"
    return facts, [Finding("answers", name, "WRONG", why, advice) for name, why in silent.items()]


def _of_nodes(stand: Sequence[Place], facts: Mapping[str, Facts], plan: Plan) -> list[Finding]:
    """Versions, memory, disk and GPUs."""
    driver = versions()
    found = []
    for place in stand:
        has = facts[place.name]
        found += same_versions(place.name, has.versions, driver)
        if has.spill is None:
            unseen = "the raylet of this node is not seen from where its workers run"
            found += [Finding(check, place.name, "not checked", unseen) for check in ("/dev/shm", "spill disk")]
        else:
            found.append(shared_memory(place.name, has.memory, has.store_folder, has.store_bytes))
            found.append(spill_disk(place.name, has.spill))
        if plan.resources.gpu and (told := int(place.node["Resources"].get("GPU", 0))):
            found.append(gpus(place.name, has.gpus, told))
    return found


def _of_storage(stand: Sequence[Place], plan: Plan) -> list[Finding]:
    """What each node may do on the storage, and its clock, which the storage's answers tell too."""
    ahead = _ahead_of_head_s(stand, plan.answer_s)
    found: list[Finding] = []
    tried: dict[str, Access] = {}
    for check, uri in (("storage", plan.storage), ("videos", plan.videos)):
        if uri is None:
            found.append(Finding(check, "-", "told", f"left out; --{check} names what is to be tried"))
            continue
        given, silent = _try_runs(stand, uri, plan) if check == "storage" else _try_videos(stand, uri, plan)
        tried |= {name: one for name, one in given.items() if one.ahead_s is not None}
        found += [finding for name, one in given.items() for finding in access(check, name, one)]
        found += [Finding(check, name, "not checked", f"{uri}: {why}") for name, why in silent.items()]
    for place in stand:
        by_storage = tried[place.name].ahead_s if place.name in tried else None
        found.append(clock(place.name, place.is_head, ahead.get(place.name), by_storage))
    return found


def _try_runs(stand: Sequence[Place], uri: str, plan: Plan) -> tuple[dict[str, Access], dict[str, str]]:
    """What the nodes, and the driver, may do where runs are to be kept."""
    folder, longest_s, new = new_folder(), REQUEST_SHARE * plan.answer_s, not _is_folder(uri)
    unknown = [place.node["NodeID"] for place in stand]
    try:
        mine = begin(uri, folder, longest_s)
        asked = {p.name: p.probe.runs.remote(uri, folder, p.node["NodeID"], not mine.refusals, longest_s) for p in stand}
        answers, silent = _answers(asked, plan.answer_s)
        for place in stand:
            if place.name in silent:
                ray.kill(place.probe)  # else it might write after all has been removed
        unknown = [place.node["NodeID"] for place in stand if place.name in silent]
    finally:
        left = remove(uri, folder, unknown, longest_s)
        if new and _is_folder(uri):
            with suppress(OSError):  # others may have put something there
                os.rmdir(open_store(uri).uri)
    left = left if not mine.refusals or unknown else ()
    return answers | ({DRIVER: replace(mine, left=left)} if mine.refusals or left else {}), silent


def _is_folder(uri: str) -> bool:
    return not uri.startswith("s3://") and Path(open_store(uri).uri).is_dir()


def _try_videos(stand: Sequence[Place], uri: str, plan: Plan) -> tuple[dict[str, Access], dict[str, str]]:
    return _answers({p.name: p.probe.videos.remote(uri, REQUEST_SHARE * plan.answer_s) for p in stand}, plan.answer_s)


def _ahead_of_head_s(stand: Sequence[Place], longest_s: float) -> dict[str, float]:
    """How far the clock of each node is ahead of the head's; of those that cannot be told nothing."""
    ahead, deadline = {}, time.monotonic() + longest_s
    for place in sorted(stand, key=lambda place: not place.is_head):
        if time.monotonic() < deadline and (found := _ahead_s(place.probe)) is not None:
            ahead[place.name] = found
    head = next((place.name for place in stand if place.is_head), None)
    return {name: seconds - ahead[head] for name, seconds in ahead.items()} if head in ahead else {}


def _ahead_s(probe: Any) -> float | None:
    """How far a node's clock is ahead of this process's, by the middle of the quickest answer; None when it does not answer."""
    found = []
    for _ in range(PINGS):
        before = time.time()
        try:
            there = ray.get(probe.now.remote(), timeout=PING_S)
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            return None
        after = time.time()
        found.append((after - before, there - (before + after) / 2))
    return min(found)[1]


def cpus(whole: Sequence[Node], free: Sequence[Node], resources: Resources) -> Finding:
    """Whether workers have room, and decoding beside them."""
    said = f"{demand(resources)}; the cluster has {describe(whole, resources)}"
    if not fits(whole, resources):
        advice = "lower --workers or add nodes; --wait-s waits for those that the cluster starts when it is asked"
        return Finding("CPUs", "the cluster", "WRONG", said, advice)
    beside = f"{decoding_places(whole, resources)} decoding tasks fit beside the workers"
    busy = "" if fits(free, resources) else f"; other jobs leave {describe(free, resources)}"
    return Finding("CPUs", "the cluster", "ok", f"{said}: {beside}{busy}")


def _all_reduce(plan: Plan) -> Finding:
    """All-reduces of the workers, by Ray Train as for a stage."""
    workers = plan.resources.workers
    if workers == 1:
        return Finding("all-reduce", "1 worker", "told", "one worker exchanges nothing; give the --workers of the run")
    _, free = nodes()
    if places(free, plan.resources) < workers:
        return Finding("all-reduce", f"{workers} workers", "not checked", f"free are {describe(free, plan.resources)}")
    resources = replace(plan.resources, start_s=plan.answer_s)
    advice = "let the nodes reach each other on all ports (the security group open inside itself), and see that each has room"
    with (
        tempfile.TemporaryDirectory(prefix="mvgan-doctor-") as notes,
        console(open_store(notes), "doctor", lambda images, record: None) as out,  # nothing is trained, so there are no records
    ):
        results: list[Any] = []
        trainer = _trainer(resources, out, notes)
        try:
            bound(lambda: results.append(trainer.fit()), "doctor", 0, resources, out, lambda room: None, lambda nodes, begun: "")
        except NoRoom:
            why = f"the workers have not begun within {plan.answer_s:g} s"
            return Finding("all-reduce", f"{workers} workers", "WRONG", why, f"{advice}, or give more --answer-s")
        except (TrainingFailedError, ray.exceptions.RayError) as error:
            return Finding("all-reduce", f"{workers} workers", "WRONG", _words(error), advice)
    return exchange(workers, results[0].return_value)


def _trainer(resources: Resources, out: Console, notes: str) -> TorchTrainer:
    timeout_s = round(resources.start_s)
    limit_ray_train(2 * timeout_s, timeout_s)
    return TorchTrainer(
        _worker,  # type: ignore[arg-type]  # what it returns becomes `return_value`
        train_loop_config={"console": out},
        torch_config=TorchConfig(backend="nccl" if resources.gpu else "gloo", timeout_s=timeout_s),
        scaling_config=ScalingConfig(num_workers=resources.workers, use_gpu=resources.gpu, resources_per_worker={"CPU": 1}),
        run_config=run_once("doctor", 0, out, notes),
    )


def _worker(config: dict[str, Any]) -> dict[int, float]:
    began(config["console"], 0, ray.train.get_context().get_world_rank())
    torch.set_num_threads(1)
    return all_reduce_s(get_device())
