"""What the shells around Ray do before and after a cluster computes; none is started here."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

import mvgan.distributed.codes
from mvgan.config import Ended, InputError, Resources
from mvgan.distributed.errors import Failure, Retries, answer_non_finite, end_with, failure_of, raise_lasting
from mvgan.presets import smoke
from mvgan.storage.commit import Commits
from mvgan.storage.run import open_run
from mvgan.storage.uri import LocalStore, Unreachable
from mvgan.train.committer import MissedCommits
from mvgan.train.guard import Diverged, NonFinite, Rollbacks


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
    ("error", "line"),
    [
        (
            task_error(Unreachable("s3://b/x: given up")),
            "ingest: the storage does not answer: s3://b/x: given up; the same",
        ),
        (
            task_error(OSError(28, "No space left on device")),
            "ingest: a disk is full: [Errno 28] No space left on device; the",
        ),
        (OutOfMemoryError("Memory on the node was 3.5GB / 4.0GB"), "in use; lower it; the same command goes on"),
        (ActorDiedError(), "ingest: a worker died: it was killed, it crashed, or its node was lost; the same command goes on"),
    ],
)
def test_a_task_that_failed_is_one_line(error: BaseException, line: str) -> None:
    with pytest.raises(Ended) as told:
        end_with(error, "ingest", "lower it")
    assert line in str(told.value) and "\n" not in str(told.value)


def test_a_task_that_met_a_mistake_of_ours_is_told_whole() -> None:
    with pytest.raises(ValueError, match="a bug"):
        end_with(task_error(ValueError("a bug")), "ingest", "lower it")
    with pytest.raises(InputError, match=r"^the shard is damaged$"):
        end_with(task_error(InputError("the shard is damaged")), "ingest", "lower it")


def test_missed_commits_end_a_run_in_their_own_words() -> None:
    gone = RuntimeError("a peer is gone")
    with pytest.raises(MissedCommits, match=r"^pairs: 3 commits in a row$"):
        raise_lasting(WorkerGroupError("rank 1", {0: MissedCommits("pairs: 3 commits in a row"), 1: gone}))


def test_numbers_that_are_not_finite_are_answered_by_one_rollback(tmp_path: Path) -> None:
    """However they are wrapped; the second time without a commit in between there is no further try."""
    words = "pairs: loss or gradients of D not finite after 40 pairs, 6 times in a row"
    error = WorkerGroupError("both ranks", {0: task_error(NonFinite(words)), 1: NonFinite(words)})
    raise_lasting(error)
    rollbacks = Rollbacks(Commits(LocalStore(tmp_path), "pairs"), "pairs")
    answer_non_finite(WorkerGroupError("", {0: RuntimeError("a bug")}), rollbacks)
    answer_non_finite(error, rollbacks)
    assert failure_of(error, [], []) == Failure("loss or gradients of D not finite after 40 pairs, 6 times in a row")
    with pytest.raises(Diverged, match=f"^{words}, again after going on from the start, as there is no commit; lower --pairs.lr"):
        answer_non_finite(error, rollbacks)


def lost(actor_error: BaseException) -> BaseException:
    """What Ray Train raises when its call to a worker fails so."""
    return WorkerGroupError("rank 1", {1: WorkerHealthCheckFailedError("A worker health check failed.", failure=actor_error)})


GLOO = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4242")
MONITOR = "Memory on the node (IP: 10.0.0.7, ID: ab) was 15.21GB used / 16.00GB limit (0.950625)\nRefer to the documentation"


@pytest.mark.parametrize(
    ("error", "hung", "killed_on", "expected"),
    [
        (lost(OutOfMemoryError(MONITOR)), [], [], Failure("", memory=True)),
        (WorkerGroupError("", {0: task_error(OutOfMemoryError(MONITOR))}), [], [], Failure("", memory=True)),
        (WorkerGroupError("", {0: torch.OutOfMemoryError("CUDA out of memory. Tried")}), [], [], Failure("", memory=True)),
        (WorkerGroupError("", {0: MemoryError()}), [], [], Failure("", memory=True)),
        (lost(ActorDiedError()), [], ["host-7"], Failure("", memory=True)),
        (WorkerGroupError("", {0: GLOO}), [], ["host-7"], Failure("", memory=True)),
        (lost(ActorDiedError()), [], [], Failure("")),
        (ControllerError(WorkerGroupStartupFailedError("At least one of the worker actors failed to initialize.")), [], [], Failure("")),
        (lost(ActorDiedError()), [0, 3], ["host-7"], Failure("")),
        (WorkerGroupError("", {1: WorkerHealthCheckTimeoutError("hanging")}), [], [], Failure("")),
        (WorkerGroupError("", {0: task_error(Unreachable("s3://b/shards/1: given up"))}), [], [], Failure("")),
        (PreemptionError(PreemptionInfo(None, {"node": [1]})), [], [], Failure("", preempted=True)),
        (WorkerGroupError("", {0: ValueError("a bug")}), [], ["host-7"], Failure("", unforeseen=True)),
        (WorkerGroupError("", {0: GLOO}), [], [], Failure("", unforeseen=True)),
    ],
)
def test_the_kind_of_a_failure(error: BaseException, hung: list[int], killed_on: list[str], expected: Failure) -> None:
    failure = failure_of(error, hung, killed_on)
    assert dataclasses.replace(failure, words="") == expected
    assert failure.words and "\n" not in failure.words


def test_the_words_of_a_failure() -> None:
    assert failure_of(lost(OutOfMemoryError(MONITOR)), [], []).words.endswith("its node had 15.21 of 16.00 GB in use")
    assert "host-7" in failure_of(lost(ActorDiedError()), [], ["host-7"]).words
    assert failure_of(lost(ActorDiedError()), [0, 3], []).words == "worker 0, 3 hung"
    gone = failure_of(WorkerGroupError("", {0: GLOO}), [0], [], ["host-7"])
    assert gone.words == "host-7 was lost, with the workers there" and not gone.unforeseen
    cuda = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.81 GiB of which 1 GiB is free. See"
    assert failure_of(torch.OutOfMemoryError(cuda), [], []).words == "CUDA out of memory. Tried to allocate 20.00 GiB"


def test_failures_count_since_the_newest_commit() -> None:
    retries, failure = Retries(2), Failure("killed")
    assert [retries.again(failure, images) for images in (0, 0, 0)] == [True, True, False]
    retries = Retries(2)
    assert all(retries.again(failure, images) for images in (100, 100, 200, 200, 300))
    assert [retries.again(failure, 300), retries.again(failure, 300)] == [True, False]


def test_memory_that_ran_out_gets_one_more_try() -> None:
    retries, failure = Retries(5), Failure("out of memory", memory=True)
    assert [retries.again(failure, 0), retries.again(Failure("killed"), 0), retries.again(failure, 0)] == [True, True, False]
    assert Retries(5).again(failure, 0)
    assert not Retries(0).again(failure, 0)


def test_nodes_that_are_taken_away_do_not_count() -> None:
    retries = Retries(0)
    assert all(retries.again(Failure("spot", preempted=True), 0) for _ in range(9))
    assert not retries.again(Failure("killed"), 0)


def test_codes_begin_with_room_and_the_selected_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """codes.select may have changed since stage 1 ended, so its export is made anew before a task reads it."""
    calls: list[Any] = []
    folder = open_run(str(tmp_path / "run"), smoke(), "data")
    monkeypatch.setattr(mvgan.distributed.codes, "check_room", lambda resources: calls.append("room"))
    monkeypatch.setattr(mvgan.distributed.codes, "export_weights", lambda folder, stage: calls.append(stage))
    monkeypatch.setattr(mvgan.distributed.codes, "run_tasks", lambda *args: pytest.fail("tasks") if calls != ["room", "pairs"] else [][0])
    with pytest.raises(IndexError):
        mvgan.distributed.codes.find_codes(folder, Resources())
