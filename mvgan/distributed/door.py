"""The door through which the trainings of a sweep come to their room on the cluster, those waiting that find none."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mvgan.config import Resources
from mvgan.distributed.resources import DECODE_CPUS, LEADER_BYTES, demand, describe, fits, nodes


POLL_S = 1.0
"""Time between two looks for room."""


class Places:
    """Lets in as many trainings as there is room for.

    What it has let in counts until its workers hold their room: two that saw the same room would both begin, and leave none to
    decoding, without which both hang.
    """

    def __init__(self, resources: Resources) -> None:
        """resources: of each training. Who says for `start_s` nothing of its workers is taken to have died."""
        self.resources = resources
        self._entered: dict[str, float] = {}

    def enter(self, who: str) -> str | None:
        """Let `who` in, or say what there is instead of room."""
        now = time.monotonic()
        self._entered = {other: at for other, at in self._entered.items() if other != who and now <= at + self.resources.start_s}
        _, free = nodes()
        if not fits(free, replace(self.resources, workers=(len(self._entered) + 1) * self.resources.workers)):
            return describe(free, self.resources)
        self._entered[who] = now
        return None

    def passed(self, who: str) -> None:
        """Those of `who` hold their room now, or need none any more."""
        self._entered.pop(who, None)


class Door:
    """Where trainings wait without limit; travels to the processes that lead them. Stays on the node of who makes it."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        places: Any = ray.remote(num_cpus=0)(Places)
        self.actor: Any = places.options(scheduling_strategy=here).remote(resources)

    def wait(self, who: str, say: Callable[[str], None]) -> None:
        """Wait until there is room for the training `who`, and say once that it waits."""
        told = False
        while (instead := ray.get(self.actor.enter.remote(who))) is not None:
            if not told:
                say(f"waits for room on the cluster: {demand(self.resources)}; free are {instead}")
            told = True
            time.sleep(POLL_S)

    def passed(self, who: str) -> None:
        """The workers of `who` hold their room, or it needs none any more."""
        ray.get(self.actor.passed.remote(who))


def ask_cluster(resources: Resources, trainings: int) -> None:
    """Ask a cluster that can grow for the room of so many trainings; 0 takes the request back. Another cluster takes no notice."""
    worker: dict[str, float] = {"CPU": 1, "GPU": 1} if resources.gpu else {"CPU": 1}
    team: list[dict[str, float]] = [{"memory": LEADER_BYTES}, *[worker, {"CPU": DECODE_CPUS}] * resources.workers]
    request_resources(bundles=team * trainings)
