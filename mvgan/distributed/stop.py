"""What ends a command from outside: SIGTERM, and the hours that the user has set.

SIGTERM comes of `ray job stop`, of a machine that shuts down, or of `kill`. Training then commits first.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from mvgan.config import Ended


AGAIN_S = 30.0
"""Time until a stop is raised again: the first may fall into a call that takes any error for its own."""


class Stop(Ended):
    """The command has to end, by no fault of its own."""

    @property
    def why(self) -> str:
        """What happened, without what to do."""
        return str(self).partition("; ")[0]


class TimeOver(Stop):
    """The hours that the user has set are over."""


class Terminated(Stop):
    """SIGTERM came."""


class _Asked:
    """Of this process, as signals are: the stop that was asked for, and whether someone looks for it by itself."""

    stop: Stop | None = None
    awaited = False


@contextmanager
def stoppable(max_hours: float) -> Iterator[None]:
    """Raise Stop in this thread, which must be the main one, at SIGTERM, and after `max_hours` unless they are 0.

    Ray sets a handler of its own for SIGTERM, which ends the process at once: enter this when Ray has been initialised.
    """

    def ask(stop: Stop) -> None:
        heed(stop)
        if not _Asked.awaited:
            raise_asked()

    def terminate(signum: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
        ask(Terminated("stopped by SIGTERM; the same command goes on from the last commit"))

    def over(signum: int, frame: FrameType | None) -> None:
        ask(TimeOver(f"the {max_hours:g} hours of --max-hours are over; the same command goes on from the last commit"))

    handlers = {signal.SIGTERM: terminate, signal.SIGALRM: over}
    before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    if max_hours:
        signal.setitimer(signal.ITIMER_REAL, max_hours * 3600, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _Asked.stop = None


def heed(stop: Stop) -> None:
    """Note a stop that has come to another process and is for this one too: `awaited` tells of it, and `raise_asked` raises it."""
    _Asked.stop = _Asked.stop or stop


def raise_asked() -> None:
    """Raise the stop that was asked for, if there is one that nothing has raised: an error of `awaited` has gone before it, or it was
    only noted. Nothing begins anew then, and nothing is waited for.
    """
    if _Asked.stop is not None:
        raise _Asked.stop


@contextmanager
def awaited() -> Iterator[Callable[[], Stop | None]]:
    """Within it no stop is raised: what this gives tells of it, so that work is committed first. Raised when the block ends by itself."""
    raise_asked()
    _Asked.awaited = True
    try:
        yield lambda: _Asked.stop
    finally:
        _Asked.awaited = False
    raise_asked()
