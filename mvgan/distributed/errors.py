"""Errors of workers and tasks, in the words in which they were raised."""

from typing import Any

from mvgan.config import InputError
from mvgan.storage.commit import Conflict, Superseded
from mvgan.train.hooks import NonFinite


LASTING = (InputError, NonFinite, Superseded, Conflict)
"""What another try would only meet again."""


def raise_lasting(error: BaseException) -> None:
    """Raise the error of a worker or task itself, in its own words, if no further try can mend it."""
    seen: list[Any] = [error]
    for item in seen:
        cause = getattr(item, "cause", None)
        if isinstance(item, LASTING) and cause is None:  # a task's error is of its cause's class too, but its words are a traceback
            raise type(item)(str(item)) from None
        causes = [cause, item.__cause__, getattr(item, "controller_failure", None), *getattr(item, "worker_failures", {}).values()]
        seen += [cause for cause in causes if isinstance(cause, BaseException) and cause not in seen]
