"""When workers are asked to commit and start in another number: on a cluster of numbers, and a clock that this test moves."""

from typing import Any

import pytest

from mvgan.config import Resources
from mvgan.distributed import elastic as module
from mvgan.distributed.elastic import GROW_S, Changed, Elastic
from mvgan.distributed.resources import Node
from tests.unit.distributed.test_resources import Asked, cpus


class Cluster:
    """Whole and free nodes, those that are being taken away, the workers that there is room for at a start, and the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room, self.now = room, 1000.0
        self.whole: list[Node] = cpus(2, 2)
        self.free: list[Node] = cpus(0)
        self.leaving: dict[str, int] = {}
        Asked.ever.clear()
        replaced: dict[str, Any] = {
            "await_room": lambda resources: self.room, "nodes": lambda: (self.whole, self.free), "draining": lambda: self.leaving,
            "Ask": Asked,
        }  # fmt: skip
        for name, value in replaced.items():
            monkeypatch.setattr(module, name, value)
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr("time.time", lambda: self.now)


def test_a_node_that_is_taken_away_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of others is not; without a deadline none is said."""
    cluster, elastic = Cluster(monkeypatch, 2), Elastic(Resources(workers=2))
    with elastic.start() as now:
        assert now.workers == 2
        cluster.leaving = {"of others": 1_030_000}
        cluster.now += 2
        assert elastic.look({"a", "b"}, begun=True) == ""
        cluster.leaving["b"] = 1_042_000
        cluster.now += 2
        assert elastic.look({"a", "b"}, begun=True) == elastic.why == "a node of its workers will be taken away in 38 s"
        cluster.now += 2
        assert elastic.look({"a", "b"}, begun=True) == ""
    with elastic.start():
        cluster.leaving = {"a": 0}
        assert elastic.why == "" and elastic.look({"a"}, begun=True) == "", "the last look was just now"
        cluster.now += 2
        with pytest.raises(Changed, match=r"will be taken away$"):
            elastic.look({"a"}, begun=False)


def test_what_ray_train_does_not_ask_for_is_asked_for_while_workers_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers that have no room yet, and the decoding of all."""
    Cluster(monkeypatch, 1)
    with Elastic(Resources(workers=3, min_workers=1)).start():
        assert [ask.bundles for ask in Asked.ever] == [[{"CPU": 1}] * 2 + [{"CPU": 0.5}] * 3] and not Asked.ever[0].withdrawn
    assert Asked.ever[0].withdrawn


def test_more_workers_come_when_there_is_room_for_them_and_their_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Free CPUs that the decoding of the workers leaves for a moment are no room: the whole cluster must hold all."""
    cluster, elastic = Cluster(monkeypatch, 1), Elastic(Resources(workers=2, min_workers=1))
    with elastic.start():
        cluster.now, cluster.free, cluster.whole = cluster.now + GROW_S / 2, cpus(2, 1), cpus(2, 2)
        assert elastic.look({"a"}, begun=True) == "", "too soon"
        cluster.now += GROW_S
        cluster.whole = cpus(2.5)
        assert elastic.look({"a"}, begun=True) == "", "2.5 CPUs hold no two workers with their decoding"
        cluster.now, cluster.whole, cluster.free = cluster.now + 2, cpus(4), cpus(1)
        assert elastic.look({"a"}, begun=True) == "", "others have it"
        cluster.now, cluster.free = cluster.now + 2, cpus(1.5)
        assert elastic.look({"a"}, begun=True) == "there is room for 2 workers"


def test_a_start_for_more_workers_that_brought_none_is_tried_half_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else has taken the room meanwhile."""
    cluster, elastic, told = Cluster(monkeypatch, 1), Elastic(Resources(workers=2, min_workers=1)), []
    cluster.free = cpus(2)
    for _ in range(3):
        with elastic.start():
            begun_at = cluster.now
            while not elastic.look({"a"}, begun=True):
                cluster.now += 1
            told.append(cluster.now - begun_at)
    assert told == [GROW_S, 2 * GROW_S, 4 * GROW_S]


@pytest.mark.parametrize(("fewest", "starts"), [(0, False), (1, True)])
def test_workers_that_lost_their_room_before_they_began(fewest: int, starts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where fewer do they start anew; where none do, Ray waits for the node, within start_s."""
    cluster, elastic = Cluster(monkeypatch, 2), Elastic(Resources(workers=2, min_workers=fewest))
    with elastic.start():
        cluster.whole, cluster.now = cpus(2), cluster.now + 2
        if starts:
            with pytest.raises(Changed, match="the room for 2 workers was lost"):
                elastic.look(set(), begun=False)
        else:
            assert elastic.look(set(), begun=False) == ""
