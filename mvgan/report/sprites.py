"""What the motion explorer shows: a sprite sheet per code and seed, and one video of content x motion, within a weight."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mvgan.config import InputError, Run
from mvgan.media import encode_jpeg, encode_video, grid, upscale
from mvgan.report.pictures import AMPLIFY
from mvgan.sample import Generator


MAX_PAGE_BYTES = 15_000_000
"""A page must not weigh more: it is opened on phones, and sent by mail."""

SHEETS_BYTES, MOVIE_BYTES = 7_700_000, 2_900_000
"""Most bytes of all sheets and of the video: in base64, a third longer, they leave the page some 800 kB for words and numbers."""

BYTES_PER_PIXEL, MOVIE_BYTES_PER_PIXEL = 0.18, 0.1
"""What a pixel is expected to take: that of generated talkers at quantizer 8 (JPEG; 64 px, where details are dense), and at CRF 16 (H.264)
with a reserve."""

QUANTIZERS = (2, 3, 4, 5, 6, 8, 10, 12)
"""JPEG quantizers, best first; beyond the last one smaller pictures look better than coarser ones."""

SIZES = (128, 64, 32)
"""Most pixels of a frame; smaller ones are as they are."""

STEPS = (17, 13, 9)
"""Places along a code, best first; odd, so that alpha = 0 is one of them."""

ROWS = ("former", "latter", "change of the former", "change of the latter")
"""Rows of a sheet; its columns are the places along the code."""


@dataclass(frozen=True)
class Asked:
    """What the user asks for; None leaves it to `plan`."""

    seeds: tuple[int, ...]
    motions: tuple[int, ...]
    num_frames: int
    truncation: float
    num_codes: int | None = None
    alpha: float | None = None
    num_steps: int | None = None


@dataclass(frozen=True)
class Plan:
    """What is shown: contents `seeds`, codes, places `alphas` along them in steps, and the video's motions; sizes in pixels."""

    seeds: tuple[int, ...]
    motions: tuple[int, ...]
    num_frames: int
    truncation: float
    num_codes: int
    alphas: tuple[float, ...]
    size: int
    movie_size: int

    @property
    def num_sheets(self) -> int:
        """Sprite sheets: one for each seed, direction and code."""
        return len(self.seeds) * 2 * self.num_codes


@dataclass(frozen=True)
class Sheet:
    """One code of one content: `pictures` uint8 [4, num_alphas, 3, size, size] by ROWS, `changes` [2, num_alphas].

    Changes are mean squared differences of the former and the latter frame to alpha = 0, on [-1, 1].
    """

    seed: int
    side: int
    code: int
    pictures: np.ndarray
    changes: np.ndarray


def plan(run: Run, asked: Asked) -> Plan:
    """Sizes and places along the codes by which the page is expected to weigh at most `MAX_PAGE_BYTES`, as large and many as fit.

    Raises InputError when there are no such codes, or nothing fits.
    """
    num_codes = run.num_codes if asked.num_codes is None else asked.num_codes
    if not 1 <= num_codes <= run.num_codes:
        raise InputError(f"--codes is {num_codes}; this run has 1 to {run.num_codes} codes each way")
    size, num_steps = _fitting(len(asked.seeds), num_codes, run.resolution, asked.num_steps)
    most = asked.alpha or float(run.video.num_frames)
    alphas = tuple(np.linspace(-most, most, num_steps).tolist())
    movie_size = _movie_size(len(asked.seeds) * len(asked.motions), asked.num_frames, run.resolution)
    return Plan(asked.seeds, asked.motions, asked.num_frames, asked.truncation, num_codes, alphas, size, movie_size)


def _fitting(num_seeds: int, num_codes: int, resolution: int, num_steps: int | None) -> tuple[int, int]:
    """Size and number of places along a code; larger frames go before more places."""
    room = SHEETS_BYTES / BYTES_PER_PIXEL
    sizes = sorted({min(size, resolution) for size in SIZES}, reverse=True)
    steps = STEPS if num_steps is None else (num_steps,)
    for size in sizes:
        for count in steps:
            if num_seeds * 2 * num_codes * count * len(ROWS) * size * size <= room:
                return size, count
    each = 2 * steps[-1] * len(ROWS) * sizes[-1] ** 2
    fewer = {"--seeds": int(room / (each * num_codes)), "--codes": int(room / (each * num_seeds))}
    options = " or ".join(f"at most {most} {flag}" for flag, most in fewer.items() if most) or "fewer --steps, --seeds and --codes"
    raise InputError(
        f"{num_seeds} seeds with {num_codes} codes each way and {steps[-1]} places along each do not fit into a page of "
        f"{MAX_PAGE_BYTES / 1e6:g} MB even at {sizes[-1]} px; give {options}"
    )


def _movie_size(cells: int, num_frames: int, resolution: int) -> int:
    room = MOVIE_BYTES / MOVIE_BYTES_PER_PIXEL
    for size in SIZES:
        if cells * num_frames * size * size <= room:
            return size
    raise InputError(
        f"{cells} videos of {num_frames} frames do not fit into a page of {MAX_PAGE_BYTES / 1e6:g} MB even at {SIZES[-1]} px; "
        f"give fewer --frames, --seeds or --motion-seeds"
    )


def draw_sheets(generator: Generator, plan: Plan) -> Iterator[Sheet]:
    """The sheet of each code of each seed, by `Generator.sweep` (eq. 2)."""
    for seed in plan.seeds:
        for side in (0, 1):
            for code in range(plan.num_codes):
                pairs = np.concatenate(list(generator.sweep(seed, (side, code), plan.alphas, plan.truncation)))
                yield _sheet(seed, side, code, pairs, plan.size)


def _sheet(seed: int, side: int, code: int, pairs: np.ndarray, size: int) -> Sheet:
    """From pairs uint8 [num_alphas, 2, 3, h, w], whose middle one is at alpha = 0."""
    frames = pairs.swapaxes(0, 1).astype(np.float32)
    apart = np.abs(frames - frames[:, len(pairs) // 2, None])
    # Of the frames as they are, not as JPEG keeps them, whose errors would be amplified too.
    grey = np.broadcast_to(apart.mean(2, keepdims=True), frames.shape)
    shown = np.concatenate([_shrunk(frames, size), (AMPLIFY * _shrunk(grey, size)).clip(0, 255)])
    return Sheet(seed, side, code, np.rint(shown).astype(np.uint8), np.square(apart / 127.5).mean((2, 3, 4)))


def _shrunk(frames: np.ndarray, size: int) -> np.ndarray:
    """Frames [..., h, w] averaged down to at most `size` pixels; both are powers of two."""
    *others, height, width = frames.shape
    factor = max(1, height // size)
    return frames.reshape(*others, height // factor, factor, width // factor, factor).mean((-3, -1)) if factor > 1 else frames


def pack(sheets: Sequence[Sheet], limit: int = SHEETS_BYTES) -> tuple[list[bytes], int]:
    """The sheets as JPEG, in the best quality in which all weigh at most `limit` bytes, and the pixels of their frames.

    What is noisier than `BYTES_PER_PIXEL` is drawn smaller: then there is less noise, and less of it.
    """
    pictures = [sheet.pictures for sheet in sheets]
    while True:
        for quantizer in QUANTIZERS:
            packed = _within((encode_jpeg(_board(each), quantizer) for each in pictures), limit)
            if packed is not None:
                return packed, pictures[0].shape[-1]
        half = pictures[0].shape[-1] // 2
        pictures = [np.rint(_shrunk(each.astype(np.float32), half)).astype(np.uint8) for each in pictures]


def _board(pictures: np.ndarray) -> np.ndarray:
    return grid(pictures.reshape(-1, *pictures.shape[2:]), pictures.shape[1])


def _within(files: Iterable[bytes], limit: int) -> list[bytes] | None:
    """All files, or None as soon as they are more than `limit` bytes."""
    kept, total = [], 0
    for file in files:
        kept.append(file)
        total += len(file)
        if total > limit:
            return None
    return kept


def draw_videos(generator: Generator, plan: Plan) -> Iterator[np.ndarray]:
    """The video uint8 [num_frames, 3, size, size] of each content with each motion, row by row."""
    for seed in plan.seeds:
        for motion in plan.motions:
            pieces = generator.stream(seed, plan.num_frames, plan.truncation, motion_seed=motion)
            yield np.concatenate([_of_size(piece, plan.movie_size) for piece in pieces])


def _of_size(frames: np.ndarray, size: int) -> np.ndarray:
    """Frames uint8 [..., h, w] averaged down or magnified to `size` pixels; H.264 halves colour, which magnified pixels outlive."""
    if frames.shape[-1] <= size:
        return upscale(frames, size // frames.shape[-1])
    return np.rint(_shrunk(frames.astype(np.float32), size)).astype(np.uint8)


def movie_of(videos: Sequence[np.ndarray], columns: int, fps: float, limit: int = MOVIE_BYTES) -> bytes:
    """All videos in one MP4 of at most `limit` bytes, so that they play in step; smaller where they are noisier than expected."""
    shown = np.stack(videos)
    while True:
        boards = np.stack([grid(frames, columns) for frames in shown.swapaxes(0, 1)])
        mp4 = encode_video(boards, fps, ".mp4")
        if len(mp4) <= limit:
            return mp4
        shown = _of_size(shown, shown.shape[-1] // 2)
