"""What all benchmarks share: sides that take turns, each turn in a process of its own, medians, table and JSON."""

import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from mvgan.config import InputError


SAMPLE_S = 0.5
"""Time between two looks at the memory of a turn that warms up."""
TICK_S = 0.01
"""What Linux counts CPU time in."""
MB = 2**20
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Side:
    """One side of a comparison: `steps(*arguments)` works without end and yields how many items each step has finished.

    It is called in a fresh process, or in several at once, so both are of the kind that can be sent there; it is closed
    when its turn is over.
    """

    name: str
    steps: Callable[..., Iterator[int]]
    arguments: tuple[Any, ...] = ()
    processes: int = 1


@dataclass(frozen=True)
class Turn:
    """What a side did in one turn, after its warm-up. CPU time and memory are those of all its processes together.

    peak_mb: most proportional set size (a page shared by n processes counts 1/n in each) that was seen twice a second
    until the warm-up was over, and at the end. device_mb: most memory of tensors on the GPU, 0 without one.
    """

    items: int
    wall_s: float
    cpu_s: float
    peak_mb: float
    device_mb: float = 0.0

    @property
    def per_s(self) -> float:
        """Items per second."""
        return self.items / self.wall_s

    @property
    def per_core_s(self) -> float:
        """Items per second of one core's time."""
        return self.items / max(self.cpu_s, TICK_S)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast side `fast` is as side `slow`: by the core's time, or by the clock."""

    fast: str
    slow: str
    by: str = "core"

    @property
    def name(self) -> str:
        """Its name in the JSON."""
        return f"{self.fast} / {self.slow}" + (" by the clock" if self.by == "clock" else "")

    def of(self, turns: dict[str, list[Turn]]) -> float:
        """The median over the rounds; the two turns of a round are neighbours in time."""
        rounds = zip(turns[self.fast], turns[self.slow], strict=True)
        return statistics.median(a.per_s / b.per_s if self.by == "clock" else a.per_core_s / b.per_core_s for a, b in rounds)


@dataclass(frozen=True)
class Benchmark:
    """What is compared: `sides`, the `ratios` that are told (the first is the one that counts), and a `unit` of items."""

    name: str
    unit: str
    sides: tuple[Side, ...]
    ratios: tuple[Ratio, ...]
    settings: dict[str, Any]


def require(module: str, package: str) -> Any:
    """Import what only benchmarks need. Raises InputError when it is missing."""
    try:
        return __import__(module)
    except ImportError as error:
        raise InputError(f"the benchmarks need {package}, which is not installed; pip install -c constraints.txt -e '.[bench]'") from error


def compare(benchmark: Benchmark, rounds: int, seconds: float, warm_s: float) -> dict[str, list[Turn]]:
    """Measure all sides in turn (ABAB...), `seconds` each; prints a line a turn."""
    turns: dict[str, list[Turn]] = {side.name: [] for side in benchmark.sides}
    for number in range(rounds):
        for side in benchmark.sides:
            turn = take_turn(side, seconds, warm_s)
            turns[side.name].append(turn)
            figures = f"{turn.per_s:.1f} {benchmark.unit}/s, {turn.per_core_s:.1f} per core, {turn.peak_mb:.0f} MB"
            figures += f", {turn.device_mb:.0f} MB on the GPU" if turn.device_mb else ""
            print(f"round {number + 1}/{rounds}: {side.name}: {figures}", flush=True)
    return turns


def take_turn(side: Side, seconds: float, warm_s: float) -> Turn:
    """One turn of a side in processes of its own. Raises InputError that the side raised, RuntimeError when it failed otherwise."""
    psutil = require("psutil", "psutil")
    with ExitStack() as ended:
        children = [_Child(side, seconds, warm_s, ended) for _ in range(side.processes)]
        looks = []
        while not all(child.measures(SAMPLE_S) for child in children):
            looks.append(sum(_memory(psutil, child.process.pid) for child in children))
        # Nobody looks at the memory from here on: that would take the time of what is measured.
        for child in children:
            child.begin()
        figures = [child.figures() for child in children]
        looks.append(sum(_memory(psutil, child.process.pid) for child in children))
    wall_s = sum(figure[1] for figure in figures) / side.processes
    cpu_s, device_mb = sum(figure[2] for figure in figures), sum(figure[3] for figure in figures) / MB
    return Turn(sum(figure[0] for figure in figures), wall_s, cpu_s, max(looks) / MB, device_mb)


class _Child:
    """A process that takes a turn; ends with `ended`."""

    def __init__(self, side: Side, seconds: float, warm_s: float, ended: ExitStack) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = side.name
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_turn, args=(side, seconds, warm_s, theirs))
        with _one_thread():
            self.process.start()
        theirs.close()
        ended.callback(self.process.join)
        ended.callback(self._pipe.close)  # by which the process knows that it may end
        self._measures = False

    def measures(self, wait_s: float) -> bool:
        """Whether its warm-up is over; waits for that, but no longer than told."""
        if not self._measures and self._pipe.poll(wait_s):
            self._receive()
            self._measures = True
        return self._measures

    def begin(self) -> None:
        """Have it measured from now on: the processes of a side all at the same time."""
        try:
            self._pipe.send(None)
        except ConnectionError:
            self._failed()

    def figures(self) -> tuple[int, float, float, int]:
        """Items, wall and CPU seconds of its turn, and the most bytes on a GPU."""
        found: tuple[int, float, float, int] = self._receive()
        return found

    def _receive(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._failed()
        if isinstance(answer, InputError):
            raise answer
        return answer

    def _failed(self) -> NoReturn:
        self.process.join()
        raise RuntimeError(f"side {self._name!r} failed with exit status {self.process.exitcode}; its error stands above") from None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that are started here compute in one thread each: what their libraries of linear algebra read as they load."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _turn(side: Side, seconds: float, warm_s: float, out: Connection) -> None:
    """Runs in the turn's own process: says when it is measured, gives its figures, and stays until its memory was looked at."""
    psutil = require("psutil", "psutil")
    try:
        _measured(psutil, side, seconds, warm_s, out)
    except (EOFError, ConnectionError):  # another process of the side has failed, and the turn is off
        return


def _measured(psutil: Any, side: Side, seconds: float, warm_s: float, out: Connection) -> None:
    try:
        with closing(side.steps(*side.arguments)) as steps:  # type: ignore[type-var]
            next(steps)  # to start is no part of the warm-up
            if warm_s:
                _work(steps, warm_s)
            out.send(None)
            out.recv()
            cpu_s, started = _cpu_s(psutil), time.monotonic()
            items = _work(steps, seconds)
            out.send((items, time.monotonic() - started, _cpu_s(psutil) - cpu_s, _device_bytes()))
            out.poll(None)
    except InputError as error:
        out.send(error)


def _work(steps: Iterator[int], seconds: float) -> int:
    """Items of whole steps, at least one, until `seconds` have passed."""
    end, items = time.monotonic() + seconds, next(steps)
    while time.monotonic() < end:
        items += next(steps)
    return items


def _family(psutil: Any, pid: int | None) -> list[Any]:
    """A process and all below it; none when it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _memory(psutil: Any, pid: int | None) -> float:
    """Proportional set size of a process and all below it, in bytes."""
    total = 0.0
    for process in _family(psutil, pid):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:  # ended since the family was listed
            continue
    return total


def _cpu_s(psutil: Any) -> float:
    """CPU seconds of this process, all below it, and those that have ended."""
    total = 0.0
    for process in _family(psutil, None):
        try:
            total += sum(process.cpu_times()[:4])  # user, system, and both of the children that have ended
        except psutil.NoSuchProcess:
            continue
    return total


def _device_bytes() -> int:
    """Most bytes of tensors on this process's GPU so far."""
    torch = sys.modules.get("torch")  # a side without it has none there
    return torch.cuda.max_memory_allocated() if torch and torch.cuda.is_available() and torch.cuda.is_initialized() else 0


def table(benchmark: Benchmark, turns: dict[str, list[Turn]]) -> str:
    """The medians of each side, as Markdown."""
    lines = [f"| side | {benchmark.unit}/s | {benchmark.unit}/s per core | peak MB |", "|---|---|---|---|"]
    for side in benchmark.sides:
        figures = medians(turns[side.name])
        lines.append(f"| {side.name} | {figures['per_s']:.1f} | {figures['per_core_s']:.1f} | {figures['peak_mb']:.0f} |")
    return "\n".join(lines)


def medians(turns: Sequence[Turn]) -> dict[str, float]:
    """Medians of a side over its turns; of the memory the most."""
    return {
        "per_s": statistics.median(turn.per_s for turn in turns),
        "per_core_s": statistics.median(turn.per_core_s for turn in turns),
        "peak_mb": max(turn.peak_mb for turn in turns),
        "device_mb": max(turn.device_mb for turn in turns),
    }


def summary(benchmark: Benchmark, turns: dict[str, list[Turn]]) -> str:
    """The result as one line of JSON."""
    figures = {side.name: medians(turns[side.name]) for side in benchmark.sides}
    on_gpu = {name: round(figure["device_mb"], 1) for name, figure in figures.items()}
    ratios = {ratio.name: round(ratio.of(turns), 3) for ratio in benchmark.ratios}
    return json.dumps(
        {
            "benchmark": benchmark.name,
            **benchmark.settings,
            "unit": benchmark.unit,
            "rounds": len(next(iter(turns.values()))),
            "medians": {name: {key: round(figure[key], 2) for key in ("per_s", "per_core_s")} for name, figure in figures.items()},
            "ratio": next(iter(ratios.values())),
            "ratios": ratios,
            "peak_mb": {name: round(figure["peak_mb"], 1) for name, figure in figures.items()},
            **({"device_mb": on_gpu} if any(on_gpu.values()) else {}),
        }
    )
