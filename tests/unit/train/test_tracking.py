"""Telling a tracker beside training: in order, once, without waiting for it, and without its credentials in any line.

References: the history itself, and clocks.
"""

import threading
import time
from typing import Any

import pytest
import torch

from mvgan.train.hooks import History
from mvgan.train.state import Progress
from mvgan.train.tracking import Tracking, cleaned, rows


class Noted:
    """A tracker in memory, which can fail or hang; what it was told outlives its objects, as a server's would."""

    def __init__(self, told: dict[int, dict[str, float]], trouble: "Trouble") -> None:
        self.told, self.trouble = told, trouble

    def start(self) -> int:
        self.trouble.met()
        return max(self.told, default=-1)

    def record(self, images: int, figures: dict[str, float]) -> None:
        self.trouble.met()
        assert images not in self.told, "told twice"
        self.told[images] = figures

    def end(self, complete: bool) -> None:
        self.trouble.met()
        self.trouble.ended.append(complete)


class Trouble:
    def __init__(self) -> None:
        self.down, self.hangs, self.tries = False, threading.Event(), 0
        self.hangs.set()
        self.ended: list[bool] = []

    def met(self) -> None:
        self.tries += 1
        assert self.hangs.wait(60)
        if self.down:
            raise ConnectionError("http://me:word@host does not answer,\nkey=abc123")


def tracked(history: History, told: dict[int, dict[str, float]], trouble: Trouble, said: list[str], retry_s: float = 0.0) -> Tracking:
    tracking = Tracking("noted", lambda: Noted(told, trouble), history, said.append, retry_s)
    tracking.start(None, Progress())  # type: ignore[arg-type]
    return tracking


def step(tracking: Tracking, images: int, **figures: float) -> None:
    tracking.history.append({"images": images, **figures})
    tracking.after_step(None, Progress(images), {"loss": torch.tensor(0.0)})  # type: ignore[arg-type]


def until(there: Any) -> None:
    deadline = time.monotonic() + 30
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_all_is_told_in_order_and_ended() -> None:
    told: dict[int, dict[str, float]] = {}
    trouble, said = Trouble(), list[str]()
    tracking = tracked([{"images": 0, "frechet": 9.0}], told, trouble, said)
    for images in (8, 16):
        step(tracking, images, loss=float(images))
    tracking.leave(True, 30)
    assert list(told.items()) == [(0, {"frechet": 9.0}), (8, {"loss": 8.0}), (16, {"loss": 16.0})]
    assert trouble.ended == [True] and said == []


def test_a_resumed_run_neither_repeats_nor_loses_a_step() -> None:
    """It is told of 16, which the commit has and the tracker has not, and of nothing up to 24, which the process before told it."""
    told = {8: {"loss": 8.0}}
    trouble, said = Trouble(), list[str]()
    tracking = tracked([{"images": 8, "loss": 8.0}, {"images": 16, "loss": 16.0}], told, trouble, said)
    until(lambda: 16 in told)
    tracking.leave(False, 30)
    told[24] = {"loss": 24.5}
    again = tracked([{"images": 8, "loss": 8.0}, {"images": 16, "loss": 16.0}], told, trouble, said)
    for images in (24, 32):
        step(again, images, loss=float(images))
    again.leave(True, 30)
    assert {images: figures["loss"] for images, figures in told.items()} == {8: 8, 16: 16, 24: 24.5, 32: 32}
    assert trouble.ended == [False, True]


def test_records_after_the_same_images_are_one() -> None:
    history = [{"images": 8, "loss": 1}, {"images": 8, "frechet": 2.0}, {"images": 16, "loss": 3}]
    assert list(rows(history)) == [(8, {"loss": 1.0, "frechet": 2.0}), (16, {"loss": 3.0})]


def test_a_tracker_that_is_down_is_said_once_and_told_the_rest_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTED_API_KEY", "abc123")
    told: dict[int, dict[str, float]] = {}
    trouble, said = Trouble(), list[str]()
    trouble.down = True
    tracking = tracked([], told, trouble, said)
    for images in (8, 16, 24):
        before = trouble.tries
        step(tracking, images, loss=float(images))
        until(lambda before=before: trouble.tries > before)  # tried again, and not told again
    assert said == ["noted takes no metrics (http://host does not answer, key=***); training goes on, and it is told the rest once it does"]
    trouble.down = False
    step(tracking, 32, loss=32.0)
    until(lambda: len(told) == 4)
    tracking.leave(True, 30)
    assert list(told) == [8, 16, 24, 32] and len(said) == 1 and trouble.ended == [True]


def test_a_tracker_that_is_down_is_not_asked_at_every_step() -> None:
    trouble, said = Trouble(), list[str]()
    trouble.down = True
    tracking = tracked([], {}, trouble, said, retry_s=60.0)
    until(lambda: said)
    for images in range(8, 800, 8):
        step(tracking, images, loss=0.0)
    assert trouble.tries == 1
    tracking.leave(True, 30)
    assert trouble.tries == 2, "once more at the end"


def test_training_does_not_wait_for_a_tracker_that_hangs() -> None:
    """Neither does the end, for longer than it may; nor does the process, as the thread is a daemon."""
    trouble, said = Trouble(), list[str]()
    trouble.hangs.clear()
    tracking = tracked([], {}, trouble, said)
    started = time.monotonic()
    for images in range(8, 8000, 8):
        step(tracking, images, loss=0.0)
    assert time.monotonic() - started < 10
    tracking.leave(True, 0.2)
    assert time.monotonic() - started < 20 and said == ["noted has not taken everything within 0.2 s; going on without it"]
    assert tracking._thread.daemon
    trouble.hangs.set()
    tracking._thread.join(30)


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("https://user:pass@host/api?x=1 refused", "https://host/api?x=1 refused"),
        ("bad token tok-9 and tok-9", "bad token *** and ***"),
        ("nothing here @ all", "nothing here @ all"),
    ],
)
def test_credentials_are_not_said(words: str, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok-9")
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert cleaned(words) == left
