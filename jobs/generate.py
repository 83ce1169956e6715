"""Videos from a finished run."""

import math
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import tyro

from jobs._cli import main
from mvgan.config import InputError
from mvgan.media import SUFFIXES, encode_png, grid, write_movie
from mvgan.sample import CHUNK, Generator
from mvgan.storage.uri import open_store


MAX_SEEDS = 4096
SAY_S = 10.0
"""Time between two lines about how far it is."""
"""Most videos in one grid."""
MAX_SIDE = 16384
"""Most pixels of a side of the grid: what encoders of video take."""
MAX_BYTES = 4 << 30
"""Most memory for the frames of the grid that are held at once, and for the latents of all videos."""


@dataclass(frozen=True)
class Flags:
    """Flags of this verb."""

    run: str = tyro.MISSING
    """Run folder or s3:// prefix: what a training command printed."""
    seeds: str = "0-15"
    """Which videos: 0-15, or 1,5,9, or both kinds mixed. A seed gives the same video whichever others it is drawn with."""
    frames: int = 64
    """Length of each video in frames."""
    grid: Annotated[str | None, tyro.conf.arg(metavar="COLUMNSxROWS")] = None
    """Arrangement of the videos, such as 4x4; by default nearly square."""
    truncation: float = 0.7
    """1 keeps all variety of content, lower values draw it towards the mean, where pictures are better."""
    fps: float | None = None
    """Frames a second; by default those at which motion has its natural speed."""
    out: str = "video.mp4"
    """File that ends in .mp4, .webm or .gif (one that exists is replaced), or a new or empty folder for PNG frames."""


def parse_seeds(text: str) -> list[int]:
    """`0-15`, `1,5,9` or `0-3,8` -> the seeds in their order. Raises InputError."""
    advice = "give whole numbers from 0 on, such as 0-15 or 1,5,9"
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", part, flags=re.ASCII)
        if not match:
            raise InputError(f"cannot read {part!r} in --seeds {text!r}; {advice}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"--seeds {text!r} counts down from {first} to {last}; {advice}")
        if len(seeds) + last - first >= MAX_SEEDS:  # counted before they are there
            raise InputError(f"--seeds {text!r} names more than {MAX_SEEDS} videos, the most that one grid takes; give fewer")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {text!r} names a seed twice; {advice}")
    return seeds


def parse_grid(text: str | None, count: int) -> tuple[int, int]:
    """`4x3` -> 4 columns and 3 rows; None -> nearly square. Raises InputError when `count` videos do not fit."""
    if text is None:
        columns = math.ceil(math.sqrt(count))
        return columns, math.ceil(count / columns)
    match = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", text.strip(), flags=re.ASCII)
    if not match:
        raise InputError(f"cannot read --grid {text!r}; give columns and rows, such as 4x4")
    columns, rows = int(match[1]), int(match[2])
    if columns * rows < count:
        raise InputError(f"--grid {text} has {columns * rows} places for {count} seeds; take a larger grid or fewer seeds")
    return columns, rows


def check_size(generator: Generator, num_seeds: int, num_frames: int, shape: tuple[int, int]) -> None:
    """Raise InputError when the grid is larger than encoders take, or its videos larger than memory should hold."""
    columns, rows = shape
    size, limit = generator.run.resolution, f"{MAX_BYTES >> 30} GB of memory"
    if max(shape) * size > MAX_SIDE:
        raise InputError(
            f"a grid of {columns}x{rows} videos of {size} px has {columns * size} x {rows * size} pixels, "
            f"and a side has at most {MAX_SIDE}; give at most {MAX_SIDE // size} columns and rows by --grid"
        )
    places = MAX_BYTES // (3 * CHUNK * 3 * size**2)  # three copies: from each video, of all, and each in its place
    if columns * rows > places:
        raise InputError(f"a grid of {columns}x{rows} is too large: {places} videos of {size} px fit into {limit}; give fewer")
    longest = MAX_BYTES // (num_seeds * 2 * generator.run.network.w_dim * 4)  # the noise and w of each frame, as float32
    if num_frames > longest:
        raise InputError(f"--frames {num_frames} is too long for {num_seeds} videos: their latents fill {limit} at {longest}; give fewer")


def is_folder(out: str) -> bool:
    """Whether `out` is a folder for PNG frames, rather than a video file. Raises InputError when it can be neither."""
    suffix = os.path.splitext(out.rstrip("/"))[1].lower()
    if out.endswith("/") or not suffix or os.path.isdir(out):
        if os.path.isfile(out):
            raise InputError(f"--out {out} is a file without a known ending; give a folder, or a file that ends in {', '.join(SUFFIXES)}")
        if open_store(out).list():
            raise InputError(
                f"--out {out} is a folder that is not empty; give a new or empty one, or a name that ends in {', '.join(SUFFIXES)}"
            )
        return True
    if suffix not in SUFFIXES:
        raise InputError(f"--out {out} ends in {suffix!r}; give a file that ends in {', '.join(SUFFIXES)}, or a folder for PNG frames")
    return False


def board(generator: Generator, seeds: Sequence[int], num_frames: int, truncation: float, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """The frames uint8 [3, H, W] of all videos side by side.

    Memory holds the activations of one piece of one video.
    """
    columns, rows = shape
    for parts in zip(*(generator.stream(seed, num_frames, truncation) for seed in seeds), strict=True):
        pieces = np.stack(parts)
        cells = np.zeros((columns * rows, *pieces.shape[1:]), np.uint8)
        cells[: len(pieces)] = pieces
        for index in range(cells.shape[1]):
            yield grid(cells[:, index], columns)


def told(frames: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """The same frames; prints how far they are where they take long."""
    started = said = time.monotonic()
    for index, frame in enumerate(frames, 1):
        yield frame
        now = time.monotonic()
        if now > said + SAY_S:
            said, elapsed_s = now, now - started
            print(f"generate: {index}/{count} frames, {elapsed_s:.0f} s, ETA {elapsed_s / index * (count - index):.0f} s", flush=True)


def run(flags: Flags) -> None:
    """Write the videos and print where they are."""
    seeds = parse_seeds(flags.seeds)
    shape = parse_grid(flags.grid, len(seeds))
    if flags.frames < 1:
        raise InputError(f"--frames is {flags.frames}; a video has at least 1 frame")
    if not 0 <= flags.truncation <= 2:
        raise InputError(f"--truncation is {flags.truncation}; give a number from 0 (the mean alone) to 1 (all variety)")
    if flags.fps is not None and not 0 < flags.fps <= 1000:
        raise InputError(f"--fps is {flags.fps}; give a number above 0, or leave it away for natural speed")
    folder = is_folder(flags.out)
    generator = Generator.load(flags.run, "cuda" if torch.cuda.is_available() else "cpu")
    check_size(generator, len(seeds), flags.frames, shape)
    frames = told(board(generator, seeds, flags.frames, flags.truncation, shape), flags.frames)
    if folder:
        store = open_store(flags.out)
        for index, frame in enumerate(frames):
            store.write(f"{index:06d}.png", encode_png(frame))
    else:
        _write_video(flags.out, frames, flags.fps or generator.fps)
    print(flags.out)


def _write_video(out: str, frames: Iterator[np.ndarray], fps: float) -> None:
    """Write to a scratch file, then put it in place whole, on a local disk or on S3."""
    parent, _, name = out.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="mvgan-") as scratch:
        path = os.path.join(scratch, "video" + os.path.splitext(name)[1].lower())
        write_movie(path, frames, fps)
        with open(path, "rb") as file:
            open_store(parent or ("/" if out.startswith("/") else ".")).write(name, file.read())


if __name__ == "__main__":
    main(run, Flags, "Make videos from a finished run, in a grid, the same for the same seeds.")
