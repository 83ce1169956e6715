"""Videos side by side: their arrangement, whether they fit, and the file or folder that they are written to."""

import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from mvgan.config import InputError
from mvgan.media import SUFFIXES, encode_png, grid, movie_file
from mvgan.sample import CHUNK
from mvgan.storage.uri import open_store, place_of


T = TypeVar("T")
MAX_CELLS = 4096
"""Most videos in one grid."""
SAY_S = 10.0
"""Time between two lines about how far it is."""
MAX_SIDE = 16384
"""Most pixels of a side of the grid: what encoders of video take."""
MAX_BYTES = 4 << 30
"""Most memory for the frames of the grid that are held at once."""
PICTURE = ".png"
ENDINGS = (*SUFFIXES, PICTURE)

Kind = Literal["movie", "picture", "folder"]
"""One video of all, one PNG with a row for each, or a folder with a PNG for each frame of the video of all."""

Video = Iterator[np.ndarray]
"""Frames in pieces uint8 [t, 3, h, w], as long as those of all others beside it."""


def parse_numbers(text: str, flag: str, most: int = MAX_CELLS) -> list[int]:
    """`0-15`, `1,5,9` or `0-3,8` -> the seeds in their order. Raises InputError, also for more than `most`."""
    advice = "give whole numbers from 0 on, such as 0-15 or 1,5,9"
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", part, flags=re.ASCII)
        if not match:
            raise InputError(f"cannot read {part!r} in {flag} {text!r}; {advice}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"{flag} {text!r} counts down from {first} to {last}; {advice}")
        if len(numbers) + last - first >= most:  # counted before they are there
            raise InputError(f"{flag} {text!r} names more than {most} videos, the most that are made at once; give fewer")
        numbers += range(first, last + 1)
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{flag} {text!r} names a seed twice; {advice}")
    return numbers


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
        raise InputError(f"--grid {text} has {columns * rows} places for {count} videos; take a larger grid or fewer seeds")
    return columns, rows


def kind_of(out: str) -> Kind:
    """What `out` is to be. Raises InputError when it can be nothing, or is a folder in use."""
    suffix = os.path.splitext(out.rstrip("/"))[1].lower()
    if out.endswith("/") or not suffix or os.path.isdir(out):
        if os.path.isfile(out):
            raise InputError(f"--out {out} is a file without a known ending; give a folder, or a file that ends in {', '.join(ENDINGS)}")
        if open_store(out).list():
            raise InputError(
                f"--out {out} is a folder that is not empty; give a new or empty one, or a name that ends in {', '.join(ENDINGS)}"
            )
        return "folder"
    if suffix not in ENDINGS:
        raise InputError(f"--out {out} ends in {suffix!r}; give a file that ends in {', '.join(ENDINGS)}, or a folder for PNG frames")
    return "picture" if suffix == PICTURE else "movie"


@dataclass(frozen=True)
class Board:
    """Where `count` videos of `num_frames` frames `height` x `width` stand: `columns` x `rows` places, in a picture a row each."""

    kind: Kind
    columns: int
    rows: int
    count: int
    num_frames: int
    height: int
    width: int

    def check(self) -> None:
        """Raise InputError when it is larger than encoders take, or its frames larger than memory should hold."""
        across, down, what = self.columns, self.rows, "videos"
        if self.kind == "picture":
            across, down, what = self.num_frames, self.count, "frames"
        limit, px = (
            f"{MAX_BYTES >> 30} GB of memory",
            f"{self.height} px" if self.height == self.width else f"{self.width}x{self.height} px",
        )
        if across * self.width > MAX_SIDE or down * self.height > MAX_SIDE:
            less = "--frames and --seeds" if self.kind == "picture" else "--grid"
            raise InputError(
                f"a grid of {across}x{down} {what} of {px} has {across * self.width} x {down * self.height} pixels, "
                f"and a side has at most {MAX_SIDE}; give at most {MAX_SIDE // max(self.height, self.width)} columns and rows by {less}"
            )
        places = MAX_BYTES // (3 * CHUNK * 3 * self.height * self.width)  # three copies: from each video, of all, and each in its place
        if self.columns * self.rows > places:
            raise InputError(f"a grid of {across}x{down} is too large: {places} videos of {px} fit into {limit}; give fewer")

    def write(self, out: str, videos: Sequence[Video], fps: float) -> None:
        """Make the videos and put them in place, whole, on a local disk or on S3; prints how far it is where it takes long."""
        store, name = place_of(out)
        if self.kind == "picture":
            strips = (np.concatenate(list(video)) for video in videos)
            store.write(name, encode_png(grid(np.concatenate(list(told(strips, self.count, "videos"))), self.num_frames)))
            return
        frames = told(self._frames(videos), self.num_frames, "frames")
        if self.kind == "folder":
            folder = open_store(out)
            for index, frame in enumerate(frames):
                folder.write(f"{index:06d}.png", encode_png(frame))
            return
        with movie_file(frames, fps, os.path.splitext(name)[1].lower()) as path:
            store.put(name, path)

    def _frames(self, videos: Sequence[Video]) -> Iterator[np.ndarray]:
        """The frames uint8 [3, H, W] of all videos side by side. Memory holds the activations of one piece of one video."""
        for parts in zip(*videos, strict=True):
            pieces = np.stack(parts)
            cells = np.zeros((self.columns * self.rows, *pieces.shape[1:]), np.uint8)
            cells[: len(pieces)] = pieces
            for index in range(cells.shape[1]):
                yield grid(cells[:, index], self.columns)


def told(made: Iterator[T], count: int, unit: str, verb: str = "generate") -> Iterator[T]:
    """The same items; prints how far they are where they take long."""
    started = said = time.monotonic()
    for index, item in enumerate(made, 1):
        yield item
        now = time.monotonic()
        if now > said + SAY_S:
            said, elapsed_s = now, now - started
            print(f"{verb}: {index}/{count} {unit}, {elapsed_s:.0f} s, ETA {elapsed_s / index * (count - index):.0f} s", flush=True)
