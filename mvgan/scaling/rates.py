"""What was measured, and the rates that follow from it. Each figure stands in docs/benchmarks.md, and a test looks for it there.

Only the figures below are inputs. What else docs/benchmarks.md has of training on a GPU and of decoding is predicted, and
`tests/unit/scaling/test_predictions.py` compares.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from math import comb

from mvgan.config import Network, Run
from mvgan.scaling.work import discriminator_work, generator_work, num_blocks


STEP_MS = {"G": (98, 177, 38), "D": (90, 170, 29), "path length": (260, 452, 62), "R1": (486, 940, 80)}
"""Of a phase on an H200 in bf16: 256 px, channel_base 32768, batch 32 and 64; and 64 px, channel_base 16384, batch 32, where the GPU waits
for the CPU that launches."""
LARGE, LARGE_BATCHES, SMALL = (256, 32768), (32, 64), (64, 16384)

PASSES = {"G": (3, 2), "D": (1, 6), "path length": (3, 0), "R1": (0, 6)}
"""Passes forward through G and D that a phase is worth for each pair of the batch. A gradient costs two; path lengths take half of it."""

READERS = {"shards": (1347.3, 279.8), "stream": (1386.2, 246.2), "shards, uncached": (965.3, 237.8), "S3, uncached": (755.8, 200.2)}
"""Pairs/s of one core that reads, at 64 and at 256 px, 4 pairs a piece."""
READ_SIZES, READ_PAIRS = (64, 256), 4

WINDOWS = (620, 5120)
"""Pairs/s of one core at 64 px with 1 and with 16 pairs of each piece."""
WINDOW_PAIRS = (1, 16)

DRAW_NS = 35
"""Of a core's time, to draw a window, for each video of the set."""

FRAME_BYTES = (717, 7609)
"""Of a frame in shards at 64 and 256 px, of people who speak before a still background; what moves takes more."""

INGEST_MS = (1.32, 3.49)
"""Of a core's time for a source frame of 360x288 pixels that becomes one of 64 or of 256 px."""

MANIFEST_BYTES = (194, 160)
"""Of a video and of a shard in the manifest."""
VIDEO_MEMORY, VIDEO_US = 685, 2.8
"""Bytes that a video takes in each process that holds the manifest, and microseconds to read it."""

COMMIT_GB_PER_S = 0.87
"""Of the thread that serialises and hashes a commit."""


@dataclass(frozen=True)
class Phase:
    """What a phase of a step takes on one H200."""

    fixed_ms: float
    """For each block of resolutions, whatever the batch."""
    ms_per_gb: float
    """For each GB that it reads and writes."""
    launch_ms: float
    """Of the CPU, for each block."""

    def seconds(self, blocks: int, gigabytes: float, gpu: float, core: float) -> float:
        """With a GPU so many times as fast as an H200 and a core so many times as fast as those beside it."""
        return max(self.launch_ms * blocks / core, (self.fixed_ms * blocks + self.ms_per_gb * gigabytes) / gpu) / 1000


def phases() -> dict[str, Phase]:
    """The phases by their names, fitted to STEP_MS."""
    network, found = Network(channel_base=LARGE[1]), {}
    few, many = LARGE_BATCHES
    for name, (at_few, at_many, at_small) in STEP_MS.items():
        ms_per_pair = (at_many - at_few) / (many - few)
        fixed_ms = (at_few - few * ms_per_pair) / num_blocks(LARGE[0])
        ms_per_gb = ms_per_pair / phase_gigabytes(name, network, LARGE[0])
        found[name] = Phase(fixed_ms, ms_per_gb, at_small / num_blocks(SMALL[0]))
    return found


def phase_gigabytes(name: str, network: Network, resolution: int) -> float:
    """Read and written by a phase for each pair of the batch."""
    g, d = PASSES[name]
    return (g * generator_work(network, resolution).num_bytes + d * discriminator_work(network, resolution).num_bytes) / 1e9


def due(run: Run) -> dict[str, float]:
    """How often a step has each phase."""
    lazy = {"path length": (run.pairs.pl_weight, run.pairs.pl_every), "R1": (run.pairs.r1_gamma, run.pairs.r1_every)}
    return {"G": 1.0, "D": 1.0} | {name: 1 / every if weight else 0.0 for name, (weight, every) in lazy.items()}


def step_seconds(run: Run, batch: int, gpu: float = 1.0, core: float = 1.0) -> float:
    """Compute of an average step of `batch` pairs on one GPU."""
    blocks, known = num_blocks(run.resolution), phases()
    return sum(
        share * known[name].seconds(blocks, batch * phase_gigabytes(name, run.network, run.resolution), gpu, core)
        for name, share in due(run).items()
    )


@dataclass(frozen=True)
class Draw:
    """What drawing several pairs that start in one piece of a long video takes, on average."""

    pieces: float
    """Pieces that are read: the second frame may lie in a later one."""
    frames: float
    """Frames that are decoded: of each piece those up to the last one that is wanted."""


def draw(run: Run, pairs: int) -> Draw:
    """Of `pairs` pairs without repetition, as `mvgan.data.windows` draws them."""
    size, spans = run.ingest.frames_per_piece, run.interval if run.network.frames == 2 else (0,)
    cells = [(start, start + span) for span in spans for start in range(size)]
    pieces = frames = 0.0
    for first in range(0, size + max(spans), size):
        ends = [max((place - first + 1 for place in cell if first <= place < first + size), default=0) for cell in cells]
        frames += _mean_of_largest(ends, pairs)
        pieces += _mean_of_largest([min(end, 1) for end in ends], pairs)
    return Draw(pieces, frames)


def _mean_of_largest(values: list[int], count: int) -> float:
    """Mean of the largest of `count` of the `values`, drawn without repetition."""
    count = min(count, len(values))
    below = (sum(value < level for value in values) for level in range(1, max(values) + 1))
    return sum(1 - comb(fewer, count) / comb(len(values), count) for fewer in below)


def decode_seconds(run: Run, reader: str) -> float:
    """Of one core's time for a pair read by `reader`, one of READERS; drawing windows is left out.

    A frame decoded and a pair cut out take what they do in proportion at 64 px, whatever the size and the reader.
    """
    usual = Run(resolution=run.resolution)
    one, many = (1 / rate * pairs for rate, pairs in zip(WINDOWS, WINDOW_PAIRS, strict=True))
    few_frames, many_frames = (draw(usual, pairs).frames for pairs in WINDOW_PAIRS)
    pairs_few, pairs_many = WINDOW_PAIRS
    frame_s = (one * pairs_many - many * pairs_few) / (few_frames * pairs_many - many_frames * pairs_few)
    pair_s = (one - frame_s * few_frames) / pairs_few

    def cost(settings: Run, pairs: int) -> float:
        return frame_s * draw(settings, pairs).frames / pairs + pair_s

    pairs = run.pairs.pairs_per_piece
    return _by_pixels(run.resolution, [1 / rate for rate in READERS[reader]]) * cost(run, pairs) / cost(usual, READ_PAIRS)


def _by_pixels(resolution: int, seconds: Iterable[float]) -> float:
    """Linear in the pixels of a frame, through `seconds` at READ_SIZES."""
    small, large = seconds
    low, high = (size**2 for size in READ_SIZES)
    return small + (large - small) * (resolution**2 - low) / (high - low)


def frame_bytes(resolution: int) -> float:
    """Of a frame in shards: a power of its size through FRAME_BYTES."""
    small, large = FRAME_BYTES
    power = math.log(large / small) / math.log(READ_SIZES[1] / READ_SIZES[0])
    return small * (resolution / READ_SIZES[0]) ** power


def ingest_seconds(resolution: int) -> float:
    """Of one core's time to make a frame of shards."""
    return _by_pixels(resolution, INGEST_MS) / 1000
