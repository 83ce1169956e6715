"""Benchmarks: both sides in one run, a table, and one line of JSON."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from jobs._cli import main
from mvgan.bench import data, frechet, jacobian, rpca, step, video_step, windows
from mvgan.bench.harness import Benchmark, compare, require, summary, table
from mvgan.config import InputError, Run
from mvgan.validation import validate


@dataclass(frozen=True)
class Flags:
    """Flags of this verb."""

    SCRATCH: ClassVar[tuple[str, ...]] = ("out",)

    name: Annotated[Literal["data", "windows", "step", "video-step", "jacobian", "rpca", "frechet"], tyro.conf.Positional]
    """data: pairs from shards against OpenCV's random access, and the plain loop against Ray Data. windows: pairs per
    piece and pieces per window. step: training of stage 1 against the same networks as the papers write them.
    video-step: training of stage 3 with many frames in a synthesis call against one a frame. jacobian: Grams
    by forward mode against the released reverse mode. rpca: the low-rank factorization against the released one. frechet: the
    Frechet distance against scipy's matrix root."""
    resolution: int = 256
    """Frame size in pixels, a power of two."""
    device: str = "cpu"
    """Where it is computed: cpu (one core), or cuda (step, video-step, jacobian)."""
    channel_base: int | None = None
    """Channels times resolution (step, video-step, jacobian); without it 32768, with at most 512 channels, but on a CPU 4096 with at
    most 256, and of video-step 2048 with at most 128."""
    batch: int | None = None
    """Pairs of a step (step) or clips (video-step); without it 8 and 4 on a CPU, else 32 and 16."""
    videos: str | None = None
    """Local folder of videos; without it clips of twice the resolution with a key frame every 250 frames are rendered."""
    storage: str | None = None
    """s3:// prefix for a copy of the shards, which is then measured too (data)."""
    out: str = "runs/bench"
    """Local folder for the clips and shards, which the next benchmark uses again."""
    rounds: int = 3
    """Turns of each side."""
    seconds: float = 10
    """Length of a turn."""
    warm_seconds: float = 8
    """Time between the first items of a turn and its measured part."""


WIDTHS = {True: (4096, 256), False: (32768, 512)}
"""channel_base and channel_max on a CPU, and on a GPU."""


def run(flags: Flags) -> None:
    """Measure and print."""
    for field in dataclasses.fields(flags):
        if field.name not in (*READS[flags.name], *ALWAYS_READ) and getattr(flags, field.name) != field.default:
            raise InputError(f"benchmark {flags.name} reads no --{field.name.replace('_', '-')}; leave it away")
    if flags.rounds < 1 or flags.seconds <= 0 or flags.warm_seconds < 0:
        raise InputError("there is nothing to measure; give --rounds and --seconds above 0 and --warm-seconds of at least 0")
    require("psutil", "psutil")
    benchmark = BENCHMARKS[flags.name](flags)
    turns = compare(benchmark, flags.rounds, flags.seconds, flags.warm_seconds)
    print(table(benchmark, turns))
    print(summary(benchmark, turns))


def _data(flags: Flags) -> Benchmark:
    from mvgan.distributed.bench import stream_tasks, streamed_pairs  # the other benchmarks need no Ray

    require("cv2", "opencv-python-headless")
    if flags.storage is not None and not flags.storage.startswith("s3://"):
        raise InputError(f"--storage {flags.storage} is no s3:// prefix; give one, or leave it away to measure local shards only")
    run, videos, shards = _shards(flags)
    copy = data.copy_shards(shards, f"{flags.storage.rstrip('/')}/{Path(shards).name}") if flags.storage else None
    return data.benchmark(videos, shards, copy, run, streamed_pairs, stream_tasks(shards, run))


def _windows(flags: Flags) -> Benchmark:
    run, _, shards = _shards(flags)
    return windows.benchmark(shards, run)


def _step(flags: Flags) -> Benchmark:
    (base, most), batch = WIDTHS[flags.device == "cpu"], 8 if flags.device == "cpu" else 32
    base, batch = (given if given is not None else usual for given, usual in ((flags.channel_base, base), (flags.batch, batch)))
    measured = step.Step(flags.resolution, flags.device, base, most, batch)
    step.check(measured)
    validate(measured.run("fp32"))
    return step.benchmark(measured)


def _video_step(flags: Flags) -> Benchmark:
    base, most, d_channels, batch = (2048, 128, 16, 4) if flags.device == "cpu" else (32768, 512, 64, 16)
    base, batch = (given if given is not None else usual for given, usual in ((flags.channel_base, base), (flags.batch, batch)))
    measured = video_step.VideoStep(flags.resolution, flags.device, base, most, d_channels, batch)
    step.check_device(measured.device)
    video_step.check(measured)
    validate(measured.run())
    return video_step.benchmark(measured)


def _jacobian(flags: Flags) -> Benchmark:
    base, most = WIDTHS[flags.device == "cpu"]
    measured = jacobian.Jacobian(flags.resolution, flags.device, flags.channel_base if flags.channel_base is not None else base, most)
    step.check_device(measured.device)
    validate(measured.run())
    return jacobian.benchmark(measured)


def _shards(flags: Flags) -> tuple[Run, str, str]:
    """The settings that are measured, the videos, and the shards made of them."""
    run = validate(Run(resolution=flags.resolution))
    size = 2 * run.resolution
    videos = flags.videos or data.render_clips(Path(flags.out, f"synthetic-{size}px"), size)
    return run, videos, data.make_shards(videos, flags.out, run)


BENCHMARKS: dict[str, Callable[[Flags], Benchmark]] = {
    "data": _data,
    "windows": _windows,
    "step": _step,
    "video-step": _video_step,
    "jacobian": _jacobian,
    "rpca": lambda _: rpca.benchmark(),
    "frechet": lambda _: frechet.benchmark(),
}


ALWAYS_READ = ("name", "rounds", "seconds", "warm_seconds")
READS = {
    "data": ("resolution", "videos", "storage", "out"),
    "windows": ("resolution", "videos", "out"),
    "step": ("resolution", "device", "channel_base", "batch"),
    "video-step": ("resolution", "device", "channel_base", "batch"),
    "jacobian": ("resolution", "device", "channel_base"),
    "rpca": (),
    "frechet": (),
}
"""Flags that each benchmark reads."""


if __name__ == "__main__":
    main(run, Flags, "Compare the two sides of a benchmark in turn; the last line printed is one JSON object.")
