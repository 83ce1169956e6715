"""Room for workers and decoding, node by node; the reference places them one by one."""

import itertools
import math
import socket
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mvgan.config import InputError, Resources
from mvgan.distributed import resources as module
from mvgan.distributed.autoscaler import Bundle, Growth, NodeType, growth_of
from mvgan.distributed.resources import (
    SETTLE_S,
    Node,
    NoRoom,
    RoomLost,
    await_room,
    check_cluster,
    check_room,
    could_hold,
    fits,
    most_workers,
    oom_kills,
    worker_threads,
    workers_here,
)


def cpus(*numbers: float) -> list[Node]:
    return [Node(number, 0) for number in numbers]


def places_one_by_one(cluster: list[Node], workers: int, gpu: bool) -> bool:
    """Whether some way of placing the workers leaves a half CPU of a single node for each one's decoding."""
    for chosen in itertools.product(range(len(cluster)), repeat=workers):
        left = [[node.cpus, node.gpus] for node in cluster]
        for index in chosen:
            left[index][0] -= 1
            left[index][1] -= gpu
        if min(min(pair) for pair in left) >= 0 and sum(pair[0] // 0.5 for pair in left) >= workers:
            return True
    return False


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_room_equals_placing_one_by_one(workers: int, gpu: bool) -> None:
    sizes = [Node(c, g) for c in (0, 0.5, 1, 1.5, 2, 4) for g in ((0, 1, 2) if gpu else (0,))]
    clusters = [list(pair) for pair in itertools.combinations_with_replacement(sizes, 2)]
    clusters += [cpus(1, 1, 1), cpus(1.5, 1.5, 1.5), cpus(0, 2, 2.5)]
    verdicts = [fits(cluster, Resources(workers=workers, gpu=gpu)) for cluster in clusters]
    assert verdicts == [places_one_by_one(cluster, workers, gpu) for cluster in clusters]
    assert True in verdicts and False in verdicts


class Asked:
    """What an autoscaler is asked for."""

    ever: ClassVar[list["Asked"]] = []

    def __init__(self, bundles: list[Bundle]) -> None:
        self.bundles, self.withdrawn = bundles, False
        self.ever.append(self)

    def keep(self) -> None:
        assert not self.withdrawn

    def withdraw(self) -> None:
        self.withdrawn = True


def cluster_of(monkeypatch: pytest.MonkeyPatch, whole: list[Node], *free: list[Node]) -> None:
    """A cluster whose free resources are those of `free` at one look after another; the last ones stay."""
    looks = itertools.chain(free, itertools.repeat(free[-1]))
    monkeypatch.setattr(module, "nodes", lambda: (whole, whole))
    monkeypatch.setattr(module, "standing", lambda: (whole, next(looks)))
    monkeypatch.setattr(module, "answers_requests", lambda: False)
    monkeypatch.setattr(module, "growth", lambda: None)
    monkeypatch.setattr(module, "Ask", Asked)
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.mark.parametrize(
    ("resources", "whole", "words"),
    [
        (Resources(workers=2), cpus(2), "2 workers take a CPU each and their decoding 0.5 CPU each, 3 CPUs in all; the cluster has 2 CPUs"),
        (Resources(workers=2), cpus(1.5, 0.5, 0.5, 0.5), "3 CPUs on 4 nodes, places for 1 workers"),
        (Resources(gpu=True), cpus(4), "a CPU and a GPU each"),
    ],
)
def test_a_cluster_too_small_is_told(resources: Resources, whole: list[Node], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster_of(monkeypatch, whole, whole)
    with pytest.raises(InputError) as raised:
        check_room(resources)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_what_others_use_is_waited_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cluster_of(monkeypatch, cpus(4), cpus(2), cpus(2), cpus(3))
    check_room(Resources(workers=2))
    assert "waits for room" in caplog.text and "free are 2 CPUs" in caplog.text


def test_what_others_keep_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster_of(monkeypatch, cpus(4), cpus(2))
    clock = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    with pytest.raises(NoRoom, match=r"no room within 20 s: 2 workers .*, free are 2 CPUs on 1 nodes") as raised:
        check_room(Resources(workers=2, start_s=20))
    assert "\n" not in str(raised.value)


def test_who_waits_without_limit_outlasts_others(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster_of(monkeypatch, cpus(4), *[cpus(2)] * 99, cpus(3))
    clock = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    check_room(Resources(workers=2, start_s=20), math.inf)


def test_the_autoscaler_is_asked_for_what_is_missing_and_not_any_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers of a CPU and a GPU each, and half a CPU for the decoding of each."""
    Asked.ever.clear()
    room = [Node(4, 2)]
    cluster_of(monkeypatch, room, [Node(4, 1)], [Node(4, 1)], room)
    assert await_room(Resources(workers=2, gpu=True)) == 2
    assert [ask.bundles for ask in Asked.ever] == [[{"CPU": 1, "GPU": 1}] * 2 + [{"CPU": 0.5}] * 2] and Asked.ever[0].withdrawn
    assert await_room(Resources(workers=2, gpu=True)) == 2 and len(Asked.ever) == 1


def test_fewer_workers_begin_when_the_others_find_no_room_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for one, which was lost for a while: the wait for a second one begins when there is room for one again."""
    now = [0.0]
    cluster_of(monkeypatch, cpus(4), *[cpus(2)] * 5, cpus(1), cpus(2))
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    assert await_room(Resources(workers=2, min_workers=1)) == 1
    assert now[0] == 6 + SETTLE_S
    cluster_of(monkeypatch, cpus(4), *[cpus(2)] * 5, cpus(3))
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    assert await_room(Resources(workers=2, min_workers=1)) == 2


@pytest.mark.parametrize("fewest", [0, 1, 2, 3])
def test_most_workers_are_those_that_can_be_placed_one_by_one(fewest: int) -> None:
    for cluster in [cpus(*sizes) for sizes in itertools.combinations_with_replacement((0.5, 1, 1.5, 2, 4.5), 2)]:
        counts = [count for count in range(fewest or 3, 4) if places_one_by_one(cluster, count, gpu=False)]
        assert most_workers(cluster, Resources(workers=3, min_workers=fewest)) == max(counts, default=0)


@pytest.mark.parametrize("gpu", [False, True])
def test_what_a_cluster_may_become_holds_the_workers_if_some_choice_of_nodes_does(gpu: bool) -> None:
    """Reference: every choice of as many nodes as may be."""
    sizes = [(1.0, 0.0), (2.0, 0.0), (1.0, 1.0), (4.0, 2.0), (2.0, 4.0)]
    for pair in itertools.combinations(sizes, 2):
        for most, each, workers in itertools.product((0, 1, 2, 3), (1, 2), (1, 2, 3)):
            grown = Growth(tuple(NodeType({"CPU": cpu, "GPU": gpus}, each) for cpu, gpus in pair), most)
            every = [Node(cpu, gpus) for cpu, gpus in pair for _ in range(each)]
            choices = [list(some) for some in itertools.combinations(every, min(most, len(every)))]
            wanted = any(places_one_by_one(some, workers, gpu) for some in choices)
            assert could_hold(grown, Resources(workers=workers, gpu=gpu)) == wanted, (grown, workers)


CONFIG = {
    "max_workers": 3, "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 64}}, "decode": {"resources": {"CPU": 4}, "max_workers": 1},
        "gpu": {"resources": {"CPU": 2, "GPU": 1}},
    },
}  # fmt: skip


def test_what_the_launchers_configuration_lets_a_cluster_become() -> None:
    """A kind without a bound of its own has that of all; the head is there already."""
    assert growth_of(CONFIG) == Growth((NodeType({"CPU": 4}, 1), NodeType({"CPU": 2, "GPU": 1}, 3)), 3)


@pytest.mark.parametrize(("workers", "fewest", "held"), [(3, 0, True), (4, 0, False), (4, 3, True)])
def test_a_cluster_that_may_grow_is_refused_only_what_it_can_never_hold(
    workers: int, fewest: int, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster_of(monkeypatch, cpus(0), cpus(0))
    monkeypatch.setattr(module, "growth", lambda: growth_of(CONFIG))
    resources = Resources(workers=workers, min_workers=fewest, gpu=True)
    if held:
        check_cluster(resources)
    else:
        with pytest.raises(
            InputError, match=r"4 workers take a CPU and a GPU each .*; the cluster has 0 CPUs .* at most 3 nodes beside the head"
        ):
            check_cluster(resources)


def test_nodes_that_leave_or_take_no_connection_are_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is being taken away, one that was lost a moment ago, one that is dead, and one that is there."""
    with socket.create_server(("127.0.0.1", 0)) as there, socket.create_server(("127.0.0.1", 0)) as lost:
        ports = {"stays": there.getsockname()[1], "leaves": there.getsockname()[1], "lost": lost.getsockname()[1], "dead": 1}
        lost.close()
        listed: list[dict[str, Any]] = [
            {
                "NodeID": name,
                "Alive": name != "dead",
                "NodeManagerAddress": "127.0.0.1",
                "NodeManagerPort": port,
                "Resources": {"CPU": size},
            }
            for size, (name, port) in enumerate(ports.items(), 1)
        ]
        monkeypatch.setattr("ray.nodes", lambda: listed)
        monkeypatch.setattr(module, "draining", lambda: {"leaves": 0})
        monkeypatch.setattr(module, "available_resources_per_node", lambda: {"stays": {"CPU": 0.5}})
        assert module.standing() == (cpus(1), cpus(0.5))
        assert module.nodes() == (cpus(1, 3), cpus(0.5, 0))


@pytest.mark.parametrize(
    ("here", "local", "resources", "trainings", "count"),
    [
        (Node(16, 0), 1, Resources(), 1, 1),
        (Node(16, 0), 1, Resources(), 4, 4),
        (Node(16, 0), 2, Resources(workers=4), 2, 6),  # two of its workers are elsewhere, those of the other one may be here
        (Node(16, 0), 1, Resources(), 99, 10),  # 15 CPUs with their decoding
        (Node(16, 2), 1, Resources(gpu=True), 99, 2),
        (Node(0, 0), 1, Resources(), 99, 1),
    ],
)
def test_workers_that_share_a_nodes_cores(here: Node, local: int, resources: Resources, trainings: int, count: int) -> None:
    assert workers_here(here, local, resources, trainings) == count


def test_threads_are_a_share_of_the_workers_own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(33)))
    assert [worker_threads(workers_here(Node(32, 0), 1, Resources(), trainings)) for trainings in (1, 4, 99)] == [32, 8, 1]


def test_nodes_that_do_not_come_back_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look a second; the node is back once, and then lost for good."""
    looks = iter([cpus(4), cpus(0), cpus(0), cpus(4), *[cpus(0)] * 99])
    clock = itertools.count(1)
    monkeypatch.setattr(module, "nodes", lambda: (next(looks), []))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock) // 2))
    watch = RoomLost(Resources(start_s=5))
    with pytest.raises(NoRoom, match=r"nodes were lost and did not come back within 5 s: 1 workers .*; the cluster has 0 CPUs"):
        all(watch.check() is None for _ in range(99))
    assert 5 < 99 - len(list(looks)) < 20


def test_the_kernels_count_of_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vmstat").write_text("nr_free_pages 1\noom_kill 3\noom_kill_x 9\n")
    monkeypatch.setattr(module, "VMSTAT", tmp_path / "vmstat")
    assert oom_kills() == 3
    (tmp_path / "vmstat").write_text("nr_free_pages 1\n")
    assert oom_kills() == 0


def test_the_kernel_of_this_machine_tells() -> None:
    assert "oom_kill " in Path("/proc/vmstat").read_text() and oom_kills() >= 0
