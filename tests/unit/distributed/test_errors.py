"""What the shells around Ray do before and after a cluster computes; none is started here."""

from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

import mvgan.distributed.codes
from mvgan.config import InputError, Resources
from mvgan.distributed.errors import raise_lasting
from mvgan.distributed.resources import check_room
from mvgan.presets import smoke
from mvgan.storage.run import open_run


def task_error(cause: Exception) -> BaseException:
    """What `ray.get` raises for a task that failed: of its cause's class too, with a traceback for words."""
    words = f"Traceback (most recent call last):\n  File ...\n{cause!r}"
    return RayTaskError("task", words, cause, proctitle="task", pid=1, ip="0.0.0.0").as_instanceof_cause()


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda error: error,
        task_error,
        lambda error: WorkerGroupError("rank 1", {0: RuntimeError("a peer is gone"), 1: error}),
        lambda error: WorkerGroupError("rank 0", {0: task_error(error)}),
        ControllerError,
    ],
)
def test_a_users_mistake_is_one_line_wherever_it_was_met(wrapped: Any) -> None:
    with pytest.raises(InputError) as raised:
        raise_lasting(wrapped(InputError("the shard is damaged")))
    assert type(raised.value) is InputError and str(raised.value) == "the shard is damaged"


def test_other_errors_are_left_to_the_caller() -> None:
    raise_lasting(task_error(ValueError("a bug")))
    raise_lasting(WorkerGroupError("rank 0", {0: RuntimeError("a bug")}))


@pytest.mark.parametrize(
    ("resources", "words"), [(Resources(workers=3), "4.5 CPUs, the cluster has 4"), (Resources(gpu=True), "GPUs, the cluster has 0")]
)
def test_a_cluster_too_small_is_told(resources: Resources, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    with pytest.raises(InputError, match=words):
        check_room(resources)
    check_room(Resources(workers=2))


def test_codes_begin_with_room_and_the_selected_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """codes.select may have changed since stage 1 ended, so its export is made anew before a task reads it."""
    calls: list[Any] = []
    folder = open_run(str(tmp_path / "run"), smoke(), "data")
    monkeypatch.setattr(mvgan.distributed.codes, "check_room", lambda resources: calls.append("room"))
    monkeypatch.setattr(mvgan.distributed.codes, "export_weights", lambda folder, stage: calls.append(stage))
    monkeypatch.setattr(mvgan.distributed.codes, "_map", lambda *args: pytest.fail("tasks") if calls != ["room", "pairs"] else [][0])
    with pytest.raises(IndexError):
        mvgan.distributed.codes.find_codes(folder, Resources())
