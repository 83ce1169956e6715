"""Errors of workers and tasks, in the words in which they were raised."""

from typing import Any, TypeVar

from mvgan.config import InputError
from mvgan.storage.commit import Conflict, Superseded
from mvgan.train.committer import MissedCommits
from mvgan.train.guard import NonFinite, Rollbacks


T = TypeVar("T", bound=BaseException)

LASTING = (InputError, MissedCommits, Superseded, Conflict)
"""What another try would only meet again."""


def raise_lasting(error: BaseException) -> None:
    """Raise the error of a worker or task itself, in its own words, if no further try can mend it."""
    found = _find(error, LASTING)
    if found is not None:
        raise found from None


def answer_non_finite(error: BaseException, rollbacks: Rollbacks, retry: bool) -> None:
    """If numbers of a worker were not finite, ask `rollbacks` whether going on from the newest commit may help; raises what it raises.

    Raises the worker's NonFinite itself, in its own words, if there is to be no retry.
    """
    found = _find(error, (NonFinite,))
    if found is not None:
        rollbacks.answer(found)
        if not retry:
            raise found from None


def _find(error: BaseException, kinds: tuple[type[T], ...]) -> T | None:
    """The first error of `kinds` behind `error`, made anew without its traceback."""
    seen: list[Any] = [error]
    for item in seen:
        cause = getattr(item, "cause", None)
        if isinstance(item, kinds) and cause is None:  # a task's error is of its cause's class too, but its words are a traceback
            return type(item)(str(item))
        causes = [cause, item.__cause__, getattr(item, "controller_failure", None), *getattr(item, "worker_failures", {}).values()]
        seen += [cause for cause in causes if isinstance(cause, BaseException) and cause not in seen]
    return None
