"""A worker that goes on is left alone; one that does not is ended, and its stacks say where it was."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mvgan.train import watchdog
from mvgan.train.ranks import Ranks
from mvgan.train.watchdog import EXIT_CODE, Watchdog


RANKS = Ranks(num_shards=1, group=1)


def wait_in_a_collective(until: threading.Event) -> None:
    """A name to find in the stacks."""
    until.wait(10)


def test_a_step_that_never_ends_is_ended_with_its_stacks() -> None:
    told: list[bytes] = []
    ended = threading.Event()
    with Watchdog(0.3, told.append, ended.set):
        wait_in_a_collective(ended)
    assert ended.is_set()
    assert b"wait_in_a_collective" in told[0] and b"test_watchdog.py" in told[0]


def test_time_counts_from_the_last_batch() -> None:
    """Twenty-five steps of 0.1 s outlast the limit of 2 s; no single one does."""
    ended = threading.Event()

    def batches(images: int, ranks: Ranks) -> Iterator[Tensor]:
        assert (images, ranks) == (7, RANKS)
        yield from torch.arange(25)

    with Watchdog(2.0, lambda stacks: None, ended.set) as dog:
        seen = []
        for batch in dog.watched(batches)(7, RANKS):
            time.sleep(0.1)
            seen.append(int(batch))
    assert seen == list(range(25)) and not ended.is_set()


def test_data_that_never_comes_is_a_hang_too() -> None:
    ended = threading.Event()

    def batches(images: int, ranks: Ranks) -> Iterator[Tensor]:
        ended.wait(10)
        yield torch.zeros(1)

    with Watchdog(0.3, lambda stacks: None, ended.set) as dog:
        next(dog.watched(batches)(0, RANKS))
    assert ended.is_set()


def test_it_ends_though_the_stacks_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage may be what hangs."""
    monkeypatch.setattr(watchdog, "TELL_S", 0.2)
    ended = threading.Event()
    with Watchdog(0.2, lambda stacks: wait_in_a_collective(threading.Event()), ended.set):
        assert ended.wait(5)


def test_the_process_ends_at_once() -> None:
    code = """
import time
from mvgan.train.watchdog import Watchdog
with Watchdog(0.2, lambda stacks: print(len(stacks) > 0, flush=True)):
    time.sleep(60)
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (EXIT_CODE, "True\n"), done.stderr
