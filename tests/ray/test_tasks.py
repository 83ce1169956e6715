"""Tasks on Ray: results in their order, processes that stay, and of two GPUs (of a cluster that only says so) the one that was given."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
import ray
import torch

from mvgan.config import Resources
from mvgan.distributed.resources import shut_down
from mvgan.distributed.tasks import ALL_VISIBLE, run_tasks, task_device


@pytest.fixture(scope="module", autouse=True)
def two_gpus() -> Iterator[None]:
    """A local Ray with 4 logical CPUs and 2 GPUs that are not there."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    folder = tempfile.mkdtemp(prefix="mv", dir="/tmp")
    ray.init("local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield
    shut_down()
    rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Call:
    """What a task saw."""

    pid: int
    device: str
    given: list[int | str]
    """By Ray."""
    visible: str | None
    begin: float
    end: float


def look(folder: Path, index: int, wait_for: str, count: int) -> Call:
    """Leave a mark of the begin, wait for so many marks of a kind, and leave one of the end."""
    begin = time.time()
    (folder / f"begun-{index}").touch()
    while len(list(folder.glob(wait_for))) < count:
        assert time.time() < begin + 120, f"{wait_for} never came"
        time.sleep(0.01)
    (folder / f"done-{index}").write_text(str(time.time_ns()))  # a file's own time is coarser
    given = list(ray.get_gpu_ids())
    return Call(os.getpid(), str(task_device()), given, os.environ.get("CUDA_VISIBLE_DEVICES"), begin, time.time())


def tell(index: int, *others: object) -> int:
    look(*others)  # type: ignore[arg-type]
    return index


def calls(resources: Resources, arguments: Sequence[tuple[Any, ...]], function: Callable[..., Any] = look) -> list[Any]:
    return list(run_tasks(function, arguments, resources, "test", "calls", "take less"))


def at_once(found: Sequence[Call]) -> int:
    """Most calls that ran at the same time."""
    return max(sum(other.begin <= call.begin < other.end for other in found) for call in found)


def test_results_are_in_the_order_of_the_tasks_not_of_their_arrival(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of the first three ends after the one that follows it, and the fourth and all others before them."""
    waits = [("done-1", 1), ("done-2", 1), ("done-*", 21), *[("done-*", 0)] * 21]
    found = calls(Resources(), [(index, tmp_path, index, *wait) for index, wait in enumerate(waits)], tell)
    assert found == list(range(24))
    ended = sorted(tmp_path.glob("done-*"), key=lambda path: int(path.read_text()))
    assert [path.name for path in ended][-3:] == ["done-2", "done-1", "done-0"]
    assert "test: 24/24 calls" in capsys.readouterr().out


def test_without_gpus_a_task_is_on_its_cpu(tmp_path: Path) -> None:
    """Ray hides no GPU from a task that has none."""
    assert {call.device for call in calls(Resources(), [(tmp_path, index, "begun-*", 0) for index in range(4)])} == {"cpu"}


@pytest.mark.parametrize(("share", "together"), [(1.0, 1), (0.5, 2)])
def test_a_gpu_is_shared_by_as_many_tasks(share: float, together: int, tmp_path: Path) -> None:
    """No task ends before as many have begun."""
    found = calls(Resources(gpu=True, gpu_share=share), [(tmp_path, index, "begun-*", 2 * together) for index in range(16)])
    assert at_once(found) == 2 * together
    for device in ("cuda:0", "cuda:1"):
        assert at_once([call for call in found if call.device == device]) == together
    assert len({call.pid for call in found}) < len(found), "a process stays for the next call"


def test_a_process_is_told_of_each_calls_gpu(tmp_path: Path) -> None:
    """A process that stays may get the other GPU next, and CUDA, once started, keeps to what was visible then."""
    found: list[Call] = []
    while not (both := {call.pid for call in found if call.given == [0]} & {call.pid for call in found if call.given == [1]}):
        assert len(found) < 300, "no process had both GPUs"
        (folder := tmp_path / str(len(found))).mkdir()
        count = 2 - len(found) % 3 // 2  # both GPUs are in use, and then the first one alone
        found += calls(Resources(gpu=True), [(folder, index, "begun-*", count) for index in range(count)])
    assert {call.device for call in found if call.pid in both} == {"cuda:0", "cuda:1"}
    assert all([call.device] == [f"cuda:{index}" for index in call.given] for call in found)
    assert {call.visible for call in found} == {os.environ.get("CUDA_VISIBLE_DEVICES")}, ALL_VISIBLE


def test_gpus_of_a_node_that_was_given_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: CUDA counts the visible ones from 0, in the order of the variable."""
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: ["5"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert task_device() == torch.device("cuda", 1)
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [1])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert task_device() == torch.device("cuda", 1)
