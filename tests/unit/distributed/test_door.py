"""Who is let in where several wait for room: on a cluster of numbers, and a clock that stands still."""

import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import ray

from mvgan.config import Resources
from mvgan.distributed import door as module
from mvgan.distributed.door import Door, Places
from mvgan.distributed.resources import Node, teams
from mvgan.distributed.stop import Stop, _Asked
from mvgan.distributed.watchdog import Room
from tests.unit.distributed.test_resources import Asked


ROOM = Room("the leader of a", "what a holds")  # type: ignore[arg-type]


class Cluster:
    """Free CPUs, and the time; who is dead, and what was freed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cpus: float, whole: float = 0) -> None:
        self.cpus, self.now = cpus, 0.0
        monkeypatch.setattr(module, "nodes", lambda: ([Node(whole or cpus, 0)], [Node(self.cpus, 0)]))
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        self.dead: list[object] = []
        self.freed: list[object] = []
        monkeypatch.setattr(module, "_dead", lambda actor: actor in self.dead)
        monkeypatch.setattr(module, "remove_placement_group", self.freed.append)


def test_two_that_see_the_same_room_do_not_both_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two free CPUs hold one worker with its decoding. Two workers would fit on them, and nothing would be decoded."""
    cluster, places = Cluster(monkeypatch, 2, 4), Places(Resources())
    assert places.enter("a") is None
    assert places.enter("b") == "2 CPUs on 1 nodes, places for 2 workers"
    cluster.cpus -= 1
    places.placed("a", ROOM)  # its worker has its CPU; the other one is for decoding
    assert places.enter("b") is not None
    cluster.cpus += 2
    assert places.enter("b") is None


def test_as_many_are_let_in_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has two workers, which take three CPUs with their decoding."""
    Cluster(monkeypatch, 9.5)
    places = Places(Resources(workers=2))
    assert [places.enter(who) is None for who in "abcd"] == [True, True, True, False]
    assert places.enter("b") is None  # it comes back, as it lost its room
    places.left("a")
    places.left("a")
    assert places.enter("d") is None and places.enter("a") is not None


def test_who_was_let_in_and_died_keeps_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, places = Cluster(monkeypatch, 2), Places(Resources(start_s=20))
    assert places.enter("a") is None
    cluster.now = 20
    assert places.enter("b") is not None
    cluster.now = 21
    assert places.enter("b") is None


def test_the_room_of_who_was_killed_is_freed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """When somebody asks for room, or at the end; not that of one who is alive, or has left by itself."""
    cluster, places = Cluster(monkeypatch, 2, 8), Places(Resources())
    places.placed("a", ROOM)
    places.placed("b", Room("the leader of b", "what b holds"))  # type: ignore[arg-type]
    places.placed("c", Room("the leader of c", "what c holds"))  # type: ignore[arg-type]
    places.left("c")
    cluster.dead = ["the leader of a", "the leader of c"]
    assert places.enter("d") is None and places.enter("e") is not None and cluster.freed == ["what a holds"]
    assert places.clear() == 1
    cluster.dead.append("the leader of b")
    assert places.clear() == 0 and cluster.freed == ["what a holds", "what b holds"]


def test_cpus_that_decoding_leaves_idle_let_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen CPUs feed as many runs as `teams` says, though at a moment without decoding all but their workers' are free."""
    cluster, places = Cluster(monkeypatch, 16), Places(Resources())
    inside = 0
    while places.enter(str(inside)) is None:
        places.placed(str(inside), ROOM)
        cluster.cpus -= 1
        inside += 1
    assert inside == teams([Node(16, 0)], Resources()) and cluster.cpus > 2
    places.left("0")
    assert places.enter("next") is None


@pytest.mark.parametrize("ends", ["let in", "stopped"])
def test_who_waits_asks_the_cluster_for_its_room_and_no_longer(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two CPUs hold one run; the second waits for three looks, and is let in or stopped."""
    Cluster(monkeypatch, 2)
    Asked.ever.clear()
    places, said = Places(Resources()), list[str]()
    door = Door.__new__(Door)  # without its actor, which needs Ray
    door.resources, door.actor = Resources(), SimpleNamespace(enter=SimpleNamespace(remote=places.enter))
    monkeypatch.setattr(module, "Ask", Asked)
    monkeypatch.setattr("ray.get", lambda answer: answer)
    looks = itertools.count(1)

    def sleep(seconds: float) -> None:
        assert [(ask.bundles, ask.withdrawn) for ask in Asked.ever] == [([{"CPU": 1}, {"CPU": 0.5}], False)]
        if next(looks) == 3:
            if ends == "stopped":
                raise KeyboardInterrupt
            places.left("a")

    monkeypatch.setattr("time.sleep", sleep)
    door.wait("a", said.append)
    assert not Asked.ever and not said, "there was room"
    with pytest.raises(KeyboardInterrupt) if ends == "stopped" else nullcontext():
        door.wait("b", said.append)
    assert Asked.ever[0].withdrawn and len(said) == 1


def test_a_stop_that_is_passed_on_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two CPUs hold one run, and the second waits. It is in another process than the first, which was asked to end."""
    Cluster(monkeypatch, 2)
    Asked.ever.clear()
    places, said = Places(Resources()), list[str]()
    doors = [Door.__new__(Door) for _ in "ab"]
    for door in doors:
        door.resources = Resources()
        door.actor = SimpleNamespace(**{name: SimpleNamespace(remote=getattr(places, name)) for name in ("enter", "stop", "stopped")})
    monkeypatch.setattr(module, "Ask", Asked)
    monkeypatch.setattr("ray.get", lambda answer: answer)
    monkeypatch.setattr(_Asked, "stop", None)
    doors[0].wait("a", said.append)
    doors[1].heed()
    assert _Asked.stop is None and not said

    def sleep(seconds: float) -> None:
        doors[0].stop(Stop("stopped by SIGTERM; go on"))
        doors[1].heed()

    monkeypatch.setattr("time.sleep", sleep)
    with pytest.raises(Stop, match=r"^stopped by SIGTERM; go on$"):
        doors[1].wait("b", said.append)
    assert Asked.ever[0].withdrawn and len(said) == 1


def test_without_the_node_of_the_driver_nobody_asks_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(answer: object) -> None:
        raise ray.exceptions.RayActorError

    door = Door.__new__(Door)
    door.actor = SimpleNamespace(stopped=SimpleNamespace(remote=lambda: None))
    monkeypatch.setattr("ray.get", get)
    monkeypatch.setattr(_Asked, "stop", None)
    door.heed()
    assert _Asked.stop is None
