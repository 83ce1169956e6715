"""How many workers train a stage now: as many as the cluster has room for, between the fewest that do and those asked for.

Ray Train's own elastic mode is not used: it counts what workers take and leaves nothing to their decoding, goes on within one claim of an
epoch, and ends the workers without a commit. Here each number of workers is a start of its own from the newest commit, and where
nothing was lost the workers commit first. Logical shards give any number of them the same samples.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from mvgan.config import Resources
from mvgan.distributed.autoscaler import Ask
from mvgan.distributed.resources import await_room, bundles, draining, fits, most_workers, nodes


LOOK_S = 1.0
"""Time between two looks at the cluster."""

GROW_S = 60.0
"""Least time from a start to another one with more workers, which costs the time of a start; doubled when it brought none."""


class Changed(Exception):
    """The cluster has changed before the workers have begun: they have to start again."""


class Elastic:
    """Decides on the number of workers at each start, and tells when there should be another one."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.why = ""
        """Why the workers were asked to commit and end, since the last start."""
        self._count, self._grow_s, self._grows = 0, GROW_S, False
        self._started_at = self._looked_at = 0.0
        self._ask: Ask

    @contextmanager
    def start(self) -> Iterator[Resources]:
        """Wait for room; gives the resources with the workers that there is room for.

        Within it the autoscaler is asked for room for decoding and for the other workers; for those that begin Ray Train asks.
        Raises NoRoom when there is none for the fewest within `start_s`.
        """
        count = await_room(self.resources)
        if self._grows and count <= self._count:
            self._grow_s *= 2
        self._count, self._grows, self.why = count, False, ""
        self._started_at = self._looked_at = time.monotonic()
        self._ask = Ask(bundles(self.resources)[count:])
        try:
            yield replace(self.resources, workers=count)
        finally:
            self._ask.withdraw()

    def look(self, node_ids: set[str], begun: bool) -> str:
        """Why the workers, which are on these nodes, should commit and end; empty while they should go on.

        Raises Changed where they have not `begun`, and so have nothing to commit.
        """
        now = time.monotonic()
        if self.why or now < self._looked_at + LOOK_S:
            return ""
        self._looked_at = now
        self._ask.keep()
        self.why = _taken(node_ids) or (self._more() if begun else self._lost())
        if self.why and not begun:
            raise Changed(self.why)
        return self.why

    def _more(self) -> str:
        """Whether there has come to be room for more workers: on the whole cluster, and in what is free."""
        missing = self.resources.workers - self._count
        if not missing or time.monotonic() < self._started_at + self._grow_s:
            return ""
        whole, free = nodes()
        more = most_workers(free, replace(self.resources, workers=missing, min_workers=1))
        if not more or not fits(whole, replace(self.resources, workers=self._count + more)):
            return ""
        self._grows = True
        return f"there is room for {self._count + more} workers"

    def _lost(self) -> str:
        """Whether the workers that have not begun have lost their room, and fewer would do: all of them Ray waits for."""
        if self.resources.min_workers in (0, self._count) or fits(nodes()[0], replace(self.resources, workers=self._count)):
            return ""
        return f"the room for {self._count} workers was lost"


def _taken(node_ids: set[str]) -> str:
    """Whether one of these nodes is being taken away."""
    deadlines = [deadline for node_id, deadline in draining().items() if node_id in node_ids]
    if not deadlines:
        return ""
    known = [deadline for deadline in deadlines if deadline]
    when = f" in {max(0.0, min(known) / 1000 - time.time()):.0f} s" if known else ""
    return f"a node of its workers will be taken away{when}"
