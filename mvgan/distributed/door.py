"""The door through which the trainings of a sweep come to their room on the cluster, those waiting that find none."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mvgan.config import Resources
from mvgan.distributed.autoscaler import Ask
from mvgan.distributed.resources import bundles, demand, describe, fits, nodes, teams
from mvgan.distributed.stop import Stop, heed, raise_asked
from mvgan.distributed.watchdog import Room


POLL_S = 1.0
"""Time between two looks for room."""

ANSWER_S = 2.0
"""Time for an actor that is alive to answer."""

CLOSE_S = 30.0
"""Most that is waited for those to die that were killed last."""


class Places:
    """Lets in as many trainings as there is room for.

    What it has let in counts until its workers hold their room: two that saw the same room would both begin, and leave none to
    decoding, without which both hang. The room of one that was killed, as by early stopping, is freed: who would have done so is dead.
    """

    def __init__(self, resources: Resources) -> None:
        """resources: of each training. Who says for `start_s` nothing of its workers is taken to have died."""
        self.resources = resources
        self._entered: dict[str, float] = {}
        self._rooms: dict[str, Room] = {}
        self._stop = ""

    def stop(self, words: str) -> None:
        """Have all trainings end; `words` say why, and what to do."""
        self._stop = words

    def stopped(self) -> str:
        """What `stop` was told, empty before."""
        return self._stop

    def enter(self, who: str) -> str | None:
        """Let `who` in, or say what there is instead of room."""
        now = time.monotonic()
        self.clear()
        self._entered = {other: at for other, at in self._entered.items() if other != who and now <= at + self.resources.start_s}
        whole, free = nodes()
        inside = (self._entered | self._rooms).keys() - {who}
        # By CPUs that decoding leaves idle for a moment more would fit than the cluster can feed.
        if len(inside) >= teams(whole, self.resources):
            return f"{describe(free, self.resources)}, beside {len(inside)} runs of this sweep"
        if not fits(free, replace(self.resources, workers=(len(self._entered) + 1) * self.resources.workers)):
            return describe(free, self.resources)
        self._entered[who] = now
        return None

    def placed(self, who: str, room: Room) -> None:
        """The workers of `who` hold their room now."""
        self._entered.pop(who, None)
        self._rooms[who] = room

    def left(self, who: str) -> None:
        """`who` needs no room any more, and has freed what it had."""
        self._entered.pop(who, None)
        self._rooms.pop(who, None)

    def clear(self) -> int:
        """Free the rooms of those that are dead; how many are held still."""
        for who, room in list(self._rooms.items()):
            if _dead(room.controller):
                remove_placement_group(room.group)
                del self._rooms[who]
        return len(self._rooms)


def _dead(actor: Any) -> bool:
    try:
        ray.get(actor.__ray_ready__.remote(), timeout=ANSWER_S)
    except ray.exceptions.GetTimeoutError:
        return False  # it is at work
    except ray.exceptions.RayActorError:
        return True
    return False


class Door:
    """Where trainings wait without limit; travels to the processes that lead them. Stays on the node of who makes it."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        places: Any = ray.remote(num_cpus=0)(Places)
        self.actor: Any = places.options(scheduling_strategy=here).remote(resources)

    def wait(self, who: str, say: Callable[[str], None]) -> None:
        """Wait until there is room for the training `who`, and say once that it waits.

        Meanwhile a cluster that can grow is asked for its room. Only who waits asks here: for those inside Ray Train and `Elastic` do, and
        requests add up. What was asked for by a process that was killed is forgotten after a while. Raises the stop that was noted in
        this process.
        """
        ask: Ask | None = None
        try:
            while (instead := ray.get(self.actor.enter.remote(who))) is not None:
                if ask is None:
                    say(f"waits for room on the cluster: {demand(self.resources)}; free are {instead}")
                    ask = Ask(bundles(self.resources))
                raise_asked()
                ask.keep()
                time.sleep(POLL_S)
        finally:
            if ask is not None:
                ask.withdraw()

    def placed(self, who: str, room: Room) -> None:
        """The workers of `who` hold their room."""
        ray.get(self.actor.placed.remote(who, room))

    def left(self, who: str) -> None:
        """`who` needs no room any more."""
        ray.get(self.actor.left.remote(who))

    def stop(self, stop: Stop) -> None:
        """Pass a stop on to the processes that lead trainings, which look for it by `heed`."""
        ray.get(self.actor.stop.remote(str(stop)))

    def heed(self) -> None:
        """Note in this process the stop that was passed on, if there is one: its training then commits and ends, or does not begin."""
        try:
            words = ray.get(self.actor.stopped.remote())
        except ray.exceptions.RayActorError:
            return  # without the driver's node nobody asks any more
        if words:
            heed(Stop(words))

    def close(self) -> None:
        """At the end, when nobody comes any more: free what those have held that were killed last."""
        until = time.monotonic() + CLOSE_S
        while ray.get(self.actor.clear.remote()) and time.monotonic() < until:
            time.sleep(POLL_S)
