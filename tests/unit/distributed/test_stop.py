"""What ends a command from outside, by real signals to this process."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress

import pytest

from mvgan.config import Ended, Resources
from mvgan.distributed import resources
from mvgan.distributed import stop as module
from mvgan.distributed.resources import await_room, session
from mvgan.distributed.stop import Stop, Terminated, TimeOver, awaited, heed, raise_asked, stoppable
from mvgan.distributed.tasks import run_tasks
from tests.unit.distributed.test_resources import Asked


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Afterwards the signals do what they did before, and none is due."""
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGALRM)]
    yield
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGALRM)] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_max_hours_ends_what_goes_on() -> None:
    started = time.monotonic()
    with pytest.raises(TimeOver, match=r"the 5e-05 hours of --max-hours are over"), session(Resources(max_hours=5e-5)):
        signal.pause()
    assert 0.1 < time.monotonic() - started < 10


def test_sigterm_ends_what_goes_on() -> None:
    def work() -> None:
        with session(Resources()):
            terminate()
            pytest.fail("it went on")

    with pytest.raises(Ended, match=r"^stopped by SIGTERM; the same command goes on from the last commit$"):
        work()


def test_a_stop_that_a_call_takes_for_its_own_error_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.05)

    def work() -> None:
        with stoppable(0):
            with suppress(Terminated):
                terminate()
            signal.pause()

    with pytest.raises(Terminated):
        work()


def test_where_it_is_awaited_it_is_told_and_raised_at_the_end() -> None:
    told = []

    def work() -> None:
        with stoppable(0), awaited() as asked:
            told.append(asked())
            terminate()
            told.append(asked())

    with pytest.raises(Terminated) as raised:
        work()
    assert told == [None, raised.value] and told[1] is not None and told[1].why == "stopped by SIGTERM"


def test_an_error_of_the_block_comes_before_it() -> None:
    def work() -> None:
        with stoppable(0), awaited():
            terminate()
            raise KeyError

    with pytest.raises(KeyError):
        work()


def test_what_an_error_went_before_is_raised_when_asked_for() -> None:
    told = []

    def work() -> None:
        with stoppable(0):
            with suppress(KeyError), awaited():
                terminate()
                raise KeyError
            told.append("here nothing is raised by itself")
            raise_asked()
            pytest.fail("it went on")

    with pytest.raises(Terminated):
        work()
    assert told


def test_nothing_begins_once_it_was_asked_for() -> None:
    def work() -> None:
        with stoppable(0):
            with suppress(Terminated):
                terminate()
            with awaited():
                pytest.fail("it has begun")

    with pytest.raises(Terminated):
        work()


def test_a_later_command_of_the_process_knows_nothing_of_it() -> None:
    for later in (nullcontext(), stoppable(0)):
        with pytest.raises(Terminated), stoppable(0):
            terminate()
        with later, awaited() as asked:
            assert asked() is None


def test_a_stop_of_another_process_is_told_and_raised_where_one_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process without handlers of its own, as those of Ray are: by training, by tasks, and by who waits for room."""
    monkeypatch.setattr(module._Asked, "stop", None)
    told = []

    def train() -> None:
        with awaited() as asked:
            told.append(asked())
            heed(stop)
            heed(Stop("a later one"))
            told.append(asked())

    def wait() -> None:
        await_room(Resources())

    stop = Stop("stopped by SIGTERM; the same command goes on")
    monkeypatch.setattr(resources, "standing", lambda: ([], []))
    monkeypatch.setattr(resources, "Ask", Asked)
    for work in (train, lambda: next(run_tasks(print, [()], Resources(), "codes", "latents", "")), wait):
        with pytest.raises(Stop) as raised:
            work()
        assert raised.value is stop
    assert told == [None, stop]
