"""Benchmark `windows`: what the number of pairs drawn from each decoded piece, and of pieces in a window, do to throughput."""

import dataclasses

from mvgan.bench.data import from_shards
from mvgan.bench.harness import Benchmark, Ratio, Side
from mvgan.config import Run


PAIRS_PER_PIECE = (1, 2, 4, 8, 16)
PIECES_PER_WINDOW = (8, 16, 32)
MIDDLE = (4, 16)
"""What the others are compared with."""


def benchmark(data: str, run: Run) -> Benchmark:
    """Each number of pairs per piece at 16 pieces a window, and each number of pieces at 4 pairs, from the shards at `data`."""
    found = [(pairs, MIDDLE[1]) for pairs in PAIRS_PER_PIECE] + [(MIDDLE[0], pieces) for pieces in PIECES_PER_WINDOW]
    sides = {shape: Side(_name(shape), from_shards, (data, _with(run, shape))) for shape in found}
    ratios = tuple(Ratio(_name(shape), _name(MIDDLE)) for shape in sides if shape != MIDDLE)
    return Benchmark("windows", "pairs", tuple(sides.values()), ratios, {"resolution": run.resolution})


def _name(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _with(run: Run, shape: tuple[int, int]) -> Run:
    pairs = dataclasses.replace(run.pairs, pairs_per_piece=shape[0], pieces_per_window=shape[1])
    return dataclasses.replace(run, pairs=pairs)
