"""Turns of sides whose speed, CPU time and memory are known, and the arithmetic of the result by hand."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from mvgan.bench.harness import Benchmark, Ratio, Side, Turn, compare, require, summary, table, take_turn
from mvgan.config import InputError


BURN = "import time; end = time.process_time() + 0.05\nwhile time.process_time() < end: pass"


@pytest.fixture(autouse=True)
def _needs_psutil() -> None:
    pytest.importorskip("psutil", reason="psutil is not installed (extra `bench`)")


def sleeping(items: int, megabytes: int = 0) -> Iterator[int]:
    kept = bytes(range(256)) * (megabytes * 4096)
    while kept is not None:
        time.sleep(0.02)
        yield items


def large_at_first(megabytes: int) -> Iterator[int]:
    """Gives back what it has taken before the first second of its warm-up is over."""
    kept = bytearray(bytes(range(256)) * (megabytes * 4096))
    yield 1
    time.sleep(1)
    kept.clear()
    yield from sleeping(1)


def slow_to_start() -> Iterator[int]:
    time.sleep(0.5)
    yield 1
    yield from sleeping(1)


def burning_in_children() -> Iterator[int]:
    while True:
        subprocess.run([sys.executable, "-S", "-c", BURN], check=True)
        yield 1


def mistaken() -> Iterator[int]:
    yield 1
    raise InputError("no such thing; give another")


def mistaken_later() -> Iterator[int]:
    yield from itertools.islice(sleeping(1), 2)
    raise InputError("no such thing; give another")


def failing() -> Iterator[int]:
    raise ZeroDivisionError
    yield


def test_sides_take_turns_and_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    sides = Side("ten", sleeping, (10,)), Side("one", sleeping, (1,))
    benchmark = Benchmark("test", "items", sides, (Ratio("ten", "one", "clock"),), {})
    turns = compare(benchmark, rounds=2, seconds=0.3, warm_s=0.05)
    shown = [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["ten", "one", "ten", "one"]
    assert all(turn.wall_s >= 0.3 and turn.items <= turn.wall_s / 0.02 * 10 for turn in turns["ten"])
    assert 10 / 3 < benchmark.ratios[0].of(turns) < 30


def test_cpu_time_of_children_counts() -> None:
    turn = take_turn(Side("children", burning_in_children), 0.3, 0)
    assert turn.cpu_s >= 0.05 * turn.items


def test_memory_is_the_peak_of_the_turn() -> None:
    small, large = (take_turn(Side("memory", sleeping, (1, megabytes)), 0.3, 0).peak_mb for megabytes in (0, 100))
    assert 95 < large - small < 140
    small, large = (take_turn(Side("memory", large_at_first, (megabytes,)), 0.3, 1.2).peak_mb for megabytes in (0, 100))
    assert 95 < large - small < 240, "what it needs in its warm-up alone"


def test_the_start_is_no_part_of_the_warm_up() -> None:
    """Reference: its clock. A turn without warm-up has no item of the slow start."""
    turn = take_turn(Side("slow", slow_to_start), 0.3, 0)
    assert turn.items >= 0.5 * turn.wall_s / 0.02


def test_several_processes_count_together() -> None:
    turn = take_turn(Side("three", sleeping, (1, 100), 3), 0.3, 0.1)
    assert 0.5 * turn.wall_s / 0.02 < turn.items / 3 <= turn.wall_s / 0.02 + 1
    assert turn.peak_mb > 300


def test_failures_are_told() -> None:
    for side in (mistaken, mistaken_later):
        with pytest.raises(InputError, match="no such thing"):
            take_turn(Side("mistaken", side), 0.3, 0)
    with pytest.raises(RuntimeError, match="'failing' failed with exit status 1"):
        take_turn(Side("failing", failing), 0.3, 0)


def test_the_result_by_hand() -> None:
    """Ratios are taken round by round, so that a machine that slows down in between does not matter."""
    fast = [Turn(100, 1.0, 0.5, 20.0), Turn(50, 1.0, 0.5, 30.0), Turn(60, 2.0, 1.0, 25.0)]
    slow = [Turn(10, 1.0, 1.0, 5.0), Turn(4, 1.0, 1.0, 5.0), Turn(8, 4.0, 1.0, 5.0)]
    sides = Side("fast", sleeping), Side("slow", sleeping)
    benchmark = Benchmark("test", "items", sides, (Ratio("fast", "slow"), Ratio("fast", "slow", "clock")), {"resolution": 8})
    turns = {"fast": fast, "slow": slow}
    assert json.loads(summary(benchmark, turns)) == {
        "benchmark": "test", "resolution": 8, "unit": "items", "rounds": 3,
        "medians": {"fast": {"per_s": 50.0, "per_core_s": 100.0}, "slow": {"per_s": 4.0, "per_core_s": 8.0}},
        "ratio": 20.0, "ratios": {"fast / slow": 20.0, "fast / slow by the clock": 12.5}, "peak_mb": {"fast": 30.0, "slow": 5.0},
    }  # fmt: skip
    assert table(benchmark, turns).splitlines()[2] == "| fast | 50.0 | 100.0 | 30 |"


def test_a_missing_package_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"need opencv-python-headless, .* pip install .*\[bench\]") as error:
        require("cv2", "opencv-python-headless")
    assert "\n" not in str(error.value)
