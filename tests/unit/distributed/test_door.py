"""Who is let in where several wait for room: on a cluster of numbers, and a clock that stands still."""

import pytest

from mvgan.config import Resources
from mvgan.distributed import door as module
from mvgan.distributed.door import Places
from mvgan.distributed.resources import Node


class Cluster:
    """Free CPUs, and the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cpus: float) -> None:
        self.cpus, self.now = cpus, 0.0
        monkeypatch.setattr(module, "nodes", lambda: ([], [Node(self.cpus, 0)]))
        monkeypatch.setattr("time.monotonic", lambda: self.now)


def test_two_that_see_the_same_room_do_not_both_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two free CPUs hold one worker with its decoding. Two workers would fit on them, and nothing would be decoded."""
    cluster, places = Cluster(monkeypatch, 2), Places(Resources())
    assert places.enter("a") is None
    assert places.enter("b") == "2 CPUs on 1 nodes, places for 2 workers"
    cluster.cpus -= 1
    places.passed("a")  # its worker has its CPU; the other one is for decoding
    assert places.enter("b") is not None
    cluster.cpus += 2
    assert places.enter("b") is None


def test_as_many_are_let_in_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has two workers, which take three CPUs with their decoding."""
    Cluster(monkeypatch, 9.5)
    places = Places(Resources(workers=2))
    assert [places.enter(who) is None for who in "abcd"] == [True, True, True, False]
    assert places.enter("b") is None  # it comes back, as it lost its room
    places.passed("a")
    places.passed("a")
    assert places.enter("d") is None and places.enter("a") is not None


def test_who_was_let_in_and_died_keeps_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, places = Cluster(monkeypatch, 2), Places(Resources(start_s=20))
    assert places.enter("a") is None
    cluster.now = 20
    assert places.enter("b") is not None
    cluster.now = 21
    assert places.enter("b") is None
