"""Room for workers and decoding, node by node; the reference places them one by one."""

import itertools
import math
from pathlib import Path

import pytest

from mvgan.config import InputError, Resources
from mvgan.distributed import resources as module
from mvgan.distributed.resources import Node, NoRoom, RoomLost, check_room, fits, oom_kills, worker_threads, workers_here


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


def cluster_of(monkeypatch: pytest.MonkeyPatch, whole: list[Node], *free: list[Node]) -> None:
    """A cluster whose free resources are those of `free` at one look after another; the last ones stay."""
    looks = itertools.chain(free, itertools.repeat(free[-1]))
    monkeypatch.setattr(module, "nodes", lambda: (whole, next(looks)))
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
    with pytest.raises(NoRoom, match=r"no room within 20 s: 2 workers .*; free are 2 CPUs on 1 nodes") as raised:
        check_room(Resources(workers=2, start_s=20))
    assert "\n" not in str(raised.value)


def test_who_waits_without_limit_outlasts_others(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster_of(monkeypatch, cpus(4), *[cpus(2)] * 99, cpus(3))
    clock = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    check_room(Resources(workers=2, start_s=20), math.inf)


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
