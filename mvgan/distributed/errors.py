"""Errors of workers and tasks, in the words in which they were raised, and why a group of workers failed."""

import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import ray.exceptions
import torch
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerHealthCheckTimeoutError
from ray.train.v2.api.exceptions import PreemptionError

from mvgan.config import Ended, InputError
from mvgan.storage.commit import Conflict, Superseded
from mvgan.storage.store import Unreachable
from mvgan.train.committer import Stopped
from mvgan.train.guard import NonFinite, Rollbacks


LASTING = (InputError, Ended, Superseded, Conflict)
"""What another try would only meet again."""

DEATHS = (ray.exceptions.RayActorError, ray.exceptions.NodeDiedError, WorkerGroupStartupFailedError)
"""What the end of a process looks like to others."""

PEER_GONE = re.compile(r"Connection (closed|reset) by peer|gloo|NCCL|Broken pipe")
"""In the words of a collective that has lost a worker."""

LOWER = {
    "pairs": "--pairs.batch, --pairs.group, --pairs.pieces-per-window or --resolution",
    "video": "--video.batch, --video.group, --video.num-frames, --video.pieces-per-window or --resolution",
}
"""The settings that take memory in a stage."""


@dataclass(frozen=True)
class Failure:
    """Why a group of workers failed, in one line."""

    words: str
    memory: bool = False
    """Memory ran out, which the same config may meet again at the same place."""
    preempted: bool = False
    """The cluster took a node away, as it may at any time: no failure of the run."""
    unforeseen: bool = False
    """An error of the code, whose traceback says more than any line."""


def raise_lasting(error: BaseException) -> None:
    """Raise the error of a worker or task itself, in its own words, if no further try can mend it."""
    for item in _chain(error):
        if _is_own(item, LASTING):
            raise type(item)(str(item)) from None


def has_stopped(error: BaseException) -> bool:
    """Whether `error` of a group of workers comes of their having committed because they were asked to."""
    return any(_is_own(item, (Stopped,)) for item in _chain(error))


def answer_non_finite(error: BaseException, rollbacks: Rollbacks) -> None:
    """If `error` comes of numbers that are not finite, have `rollbacks` answer. Raises Diverged when no rollback can mend it."""
    for item in _chain(error):
        if _is_own(item, (NonFinite,)):
            rollbacks.answer(item)
            return


def end_with(error: BaseException, what: str, lower: str) -> NoReturn:
    """Raise the error of a task in one line: its own where no further try can mend it, else what it comes from.

    what: the work that met it. lower: what takes less memory. An error of the code is raised whole.
    """
    raise_lasting(error)
    failure = failure_of(error)
    if failure.unforeseen:
        raise error
    advice = f"; {lower}" if failure.memory else ""
    raise Ended(f"{what}: {failure.words}{advice}; the same command goes on") from None


def failure_of(error: BaseException, hung: Sequence[int] = (), out_of_memory: Sequence[str] = (), lost: Sequence[str] = ()) -> Failure:
    """What `error` of a group of workers comes from.

    hung: ranks that their watchdogs ended. out_of_memory: hosts whose kernel has killed a process for want of memory. lost: hosts of
    workers that answer nobody any more.
    """
    chain = _chain(error)
    for item in chain:
        if words := _memory_words(item):
            return Failure(words, memory=True)
        if _is_own(item, (NonFinite,)):
            return Failure(_last_line(item).partition(": ")[2])
        if _is_own(item, (Unreachable,)):
            return Failure(f"the storage does not answer: {_last_line(item)}")
        if _is_own(item, (OSError,)) and item.errno == errno.ENOSPC:
            return Failure(f"a disk is full: {_last_line(item)}")
    if any(isinstance(item, PreemptionError) or getattr(item, "preempted", False) for item in chain):
        return Failure("a node was taken away", preempted=True)
    if lost:
        return Failure(f"{', '.join(lost)} was lost, with the workers there")
    if hung:
        return Failure(f"worker {', '.join(map(str, hung))} hung")
    silent = any(isinstance(item, WorkerHealthCheckTimeoutError) for item in chain)
    dead = any(isinstance(item, DEATHS) for item in chain)
    if out_of_memory and (silent or dead or any(_is_peers(item) for item in chain)):
        return Failure(f"the kernel of {', '.join(out_of_memory)} killed a process for want of memory", memory=True)
    if silent:
        return Failure("a worker no longer answers")
    if dead:
        return Failure("a worker died: it was killed, it crashed, or its node was lost")
    return Failure(_last_line(error), unforeseen=True)


def _chain(error: BaseException) -> list[Any]:
    """`error` and all that it comes from."""
    seen: list[Any] = [error]
    for item in seen:
        inner = [getattr(item, name, None) for name in ("cause", "__cause__", "controller_failure", "health_check_failure")]
        inner += getattr(item, "worker_failures", {}).values()
        seen += [cause for cause in inner if isinstance(cause, BaseException) and cause not in seen]
    return seen


def _is_own(item: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """Whether `item` is of one of `kinds` in its own words: a task's error is of its cause's class too, but says a traceback."""
    return isinstance(item, kinds) and getattr(item, "cause", None) is None


def _memory_words(item: BaseException) -> str | None:
    """How memory ran out, if `item` says that it did."""
    words = str(item)
    if isinstance(item, ray.exceptions.OutOfMemoryError):
        used = re.search(r"([\d.]+) ?GB(?: used)? / ([\d.]+) ?GB", words)
        return "Ray's memory monitor killed a process" + (f": its node had {used[1]} of {used[2]} GB in use" if used else "")
    if isinstance(item, torch.OutOfMemoryError):
        return ". ".join(words.split(". ")[:2])
    if isinstance(item, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in words:
        return f"a worker could not allocate memory: {_last_line(item)}"
    return None


def _is_peers(item: BaseException) -> bool:
    """Whether `item` is what the death of another worker looks like in a collective; it may be seen before the death is."""
    return isinstance(item, RuntimeError) and bool(PEER_GONE.search(str(item)))


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


class Retries:
    """Counts the failures of a stage since its newest commit."""

    def __init__(self, limit: int) -> None:
        """limit: most failures without a new commit in between."""
        self.limit, self.images, self.failures, self.shortages = limit, 0, 0, 0

    def again(self, failure: Failure, images: int) -> bool:
        """Whether to try again after `failure`, with the newest commit at `images`. Memory that ran out gets one more try."""
        if images > self.images:
            self.images, self.failures, self.shortages = images, 0, 0
        if failure.preempted:
            return True
        self.failures += 1
        self.shortages += failure.memory
        return self.failures <= self.limit and self.shortages <= 1
