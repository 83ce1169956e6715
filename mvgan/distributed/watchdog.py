"""What the driver knows of its workers: whether they have begun, hang, or were killed for want of memory."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.train import RunConfig
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import ControllerError
from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mvgan.config import Resources
from mvgan.distributed.console import Console
from mvgan.distributed.resources import NoRoom, answering, demand, describe, nodes, oom_kills
from mvgan.distributed.stop import awaited
from mvgan.storage.uri import Store


POLL_S = 0.5
ASK_S = 30.0
"""Time for a node to say whether its kernel has killed a process."""
LEAVE_S = 30.0
"""Most that a training takes to be left."""


@dataclass(frozen=True)
class Begun:
    """A worker has begun, at a time when its kernel had killed `oom_kills` processes."""

    attempt: int
    rank: int
    host: str
    node_id: str
    oom_kills: int
    group: PlacementGroup | None
    """What holds the room of all workers of the attempt."""


@dataclass(frozen=True)
class Hung:
    """A worker was ended by its watchdog."""

    attempt: int
    rank: int


@dataclass(frozen=True)
class Led:
    """Ray's own actor that leads an attempt has begun."""

    attempt: int
    controller: Any


@dataclass(frozen=True)
class Room:
    """What the workers of an attempt hold, and who frees it at its end unless it is killed."""

    controller: Any
    group: PlacementGroup


class TellLeader(ControllerCallback):
    """Tells the driver which actor leads an attempt, so that it can be ended."""

    def __init__(self, out: Console, attempt: int) -> None:
        self.out = out
        self.attempt = attempt

    def after_controller_start(self, train_run_context: Any) -> None:
        self.out.note(Led(self.attempt, ray.get_runtime_context().current_actor))


def limit_ray_train(answer_s: float, start_s: float) -> None:
    """Of this process: a worker that answers no call from outside is given up, and so is a start that Ray would repeat for ever."""
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(answer_s)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(start_s)
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(POLL_S)  # by default a lost worker is noticed after 2 s


def run_once(name: str, attempt: int, out: Console, notes: str) -> RunConfig:
    """A run whose leader is told of, and which Ray never repeats by itself; its notes go into the folder `notes`."""
    return RunConfig(
        name=name,
        storage_path=notes,
        callbacks=[TellLeader(out, attempt)],  # type: ignore[list-item]  # Ray takes its internal kinds too
        failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
    )


def began(out: Console, attempt: int, rank: int) -> None:
    """Tell the driver that this worker has begun."""
    node_id = ray.get_runtime_context().get_node_id()
    out.note(Begun(attempt, rank, socket.gethostname(), node_id, oom_kills(), get_current_placement_group()))


def _begun(out: Console, attempt: int) -> list[Begun]:
    return [note for note in out.noted() if isinstance(note, Begun) and note.attempt == attempt]


def _places(begun: list[Begun]) -> str:
    """Which workers run where."""
    ranks: dict[str, list[int]] = {}
    for note in sorted(begun, key=lambda note: note.rank):
        ranks.setdefault(note.host, []).append(note.rank)
    return "; ".join(f"worker{'s' if len(there) > 1 else ''} {', '.join(map(str, there))} on {host}" for host, there in ranks.items())


def _rooms(out: Console, attempt: int) -> list[Room]:
    """The room of an attempt, once its workers have begun."""
    controllers = [note.controller for note in out.noted() if isinstance(note, Led) and note.attempt == attempt]
    groups = [note.group for note in _begun(out, attempt) if note.group is not None]
    return [Room(controller, group) for controller, group in zip(controllers, groups, strict=False)]


def bound(
    fit: Callable[[], Any], stage: str, attempt: int, resources: Resources, out: Console, placed: Callable[[Room], None],
    look: Callable[[set[str], bool], str],
) -> None:  # fmt: skip
    """Call `fit`, whose workers must begin within `resources.start_s`, then `placed` once they have, and raise what `fit` raises.

    Raises NoRoom when they do not begin: Ray would wait for ever for a node that does not come back. At a Stop the workers commit and end,
    and so they do when `look`, which is told their nodes and whether all have begun, says why they should. What it raises is raised.
    """
    out.stop("")
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            fit()
        except BaseException as error:
            outcome.append(error)

    with awaited() as asked:
        started = time.monotonic()
        thread = threading.Thread(target=run, name=f"fit {stage}", daemon=True)
        thread.start()
        ready, stop = 0, None
        try:
            while thread.is_alive():
                if ready < resources.workers:
                    ready = len(_begun(out, attempt))
                    if ready == resources.workers:
                        out.say(f"{stage}: {_places(_begun(out, attempt))}")
                        for room in _rooms(out, attempt):
                            placed(room)
                    elif time.monotonic() > started + resources.start_s:
                        raise NoRoom(_not_begun(stage, ready, resources))
                if stop is None and (stop := asked()) is not None:
                    if ready < resources.workers:
                        raise stop  # there is nothing to commit
                    out.stop(stop.why)
                if stop is None and (why := look({note.node_id for note in _begun(out, attempt)}, ready == resources.workers)):
                    out.stop(why)
                thread.join(POLL_S)
            for error in outcome:
                if isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
                    raise NoRoom(_not_begun(stage, ready, resources)) from None
                raise error
        finally:
            _leave(thread, out, attempt)


def _leave(thread: threading.Thread, out: Console, attempt: int) -> None:
    """End the actor that leads an attempt, and with it its workers, their room, and the thread that waits for it.

    A thread that waits for an answer of Ray while Ray is shut down may end this process by a segmentation fault. Ray's own cleaner
    of rooms asks the dashboard who is dead, and so frees none on a cluster without one.
    """
    rooms = _rooms(out, attempt)
    for note in out.noted():
        if isinstance(note, Led) and note.attempt == attempt:
            ray.kill(note.controller)
    for room in rooms:
        remove_placement_group(room.group)
    thread.join(LEAVE_S)


def _not_begun(stage: str, ready: int, resources: Resources) -> str:
    whole, free = nodes()
    return (
        f"{stage}: {ready} of {resources.workers} workers have begun within {resources.start_s:g} s; {demand(resources)}; "
        f"the cluster has {describe(whole, resources)}, free are {describe(free, resources)}; "
        "add nodes, lower --workers, or raise --start-s; the same command goes on from the last commit"
    )


def lost_hosts(out: Console, attempt: int) -> list[str]:
    """Hosts of the attempt's workers that take no connection."""
    there = answering()
    return sorted({note.host for note in _begun(out, attempt) if note.node_id not in there})


def killed_for_memory(out: Console, attempt: int) -> list[str]:
    """Hosts of the attempt's workers whose kernel has killed a process for want of memory since they began; lost ones say nothing."""
    standing = answering()
    before = {note.node_id: note for note in _begun(out, attempt) if note.node_id in standing}
    ask: Any = ray.remote(num_cpus=0, max_retries=0)(oom_kills)
    there = {node_id: NodeAffinitySchedulingStrategy(node_id, soft=False) for node_id in before}
    asked = {node_id: ask.options(scheduling_strategy=place).remote() for node_id, place in there.items()}
    if asked:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=ASK_S)
    found = []
    for node_id, answer in asked.items():
        try:
            if ray.get(answer, timeout=0) > before[node_id].oom_kills:
                found.append(before[node_id].host)
        except ray.exceptions.RayError as error:
            print(f"{before[node_id].host} does not answer: {type(error).__name__}", file=sys.stderr, flush=True)
    return found


def tell_hang(store: Store, out: Console, name: str, attempt: int, rank: int, limit_s: float) -> Callable[[bytes], None]:
    """What a worker's watchdog does with the stacks: keeps them in the run's `logs/` and says where."""

    def tell(stacks: bytes) -> None:
        path = f"logs/{name}-{attempt}-worker-{rank}-stacks.txt"
        sys.stderr.buffer.write(stacks)  # Ray's own log of this worker: storage may be what hangs
        sys.stderr.flush()
        out.note(Hung(attempt, rank))
        store.write(path, stacks)
        out.say(f"{name}: worker {rank} has finished no step for {limit_s:g} s; the stacks of its threads are in {store.uri}/{path}")

    return tell
