"""Pictures and videos of a report: uint8 RGB `[3, h, w]`, videos as MP4. `light` is what makes them small enough for a page."""

import functools
import re
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mvgan.config import InputError, Run
from mvgan.data.shards import ShardSet
from mvgan.data.windows import Item, decode_window, pair_windows
from mvgan.media import decode_png, encode_jpeg, encode_video, grid, upscale
from mvgan.motion.codes import equal_edits
from mvgan.motion.factorize import DIRECTIONS, FRAMES
from mvgan.nets import generator as nets
from mvgan.nets.space import in_space_of
from mvgan.report.collect import real_clips
from mvgan.sample import Generator
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import Store
from mvgan.train.codes import latents, synthesize
from mvgan.train.pairs import to_uint8
from mvgan.train.pictures import tiled
from mvgan.train.session import load_generator


VISIBLE_MSE = 3e-3
"""Mean squared difference on [-1, 1] of the edits that are shown: ten times that of gate (b), where little is seen."""

AMPLIFY = 6.0
"""Factor on the absolute differences shown beside an edit, the same for both frames."""

CODE_LATENTS = 2
"""Latents, a row each, on which a code is shown."""

CODE_SIZE = 128
"""Most pixels of a frame in the pictures of the codes: there are up to 60 of them."""

SHOWN_SAMPLES = 6
"""Sample grids shown of each stage, the first and the last among them."""

VIDEO_SIZE = 128
"""Height in pixels of one video in a grid of them: small ones are magnified, larger ones made smaller."""

MOST_ACROSS = 1024
"""Most pixels of a picture from left to right: a grid of samples at 256 px has four times as many."""

QUANTIZER = 4
"""Of JPEG: as PNG the pictures of a run at 64 px have ten times the bytes."""


@dataclass(frozen=True)
class CodePicture:
    """One motion code at work."""

    direction: str
    number: int
    board: np.ndarray
    """Rows of latents; columns as CODE_COLUMNS says: uint8 [3, h, w]."""


CODE_COLUMNS = tuple(f"{frame} {what}" for frame in FRAMES for what in ("before", "after", f"difference × {AMPLIFY:g}"))


@dataclass(frozen=True)
class SamplePicture:
    """A picture that a stage drew in training."""

    images: int
    board: np.ndarray
    """uint8 [3, h, w]."""


def sample_pictures(store: Store, stage: str, count: int = SHOWN_SAMPLES) -> list[SamplePicture]:
    """The first, the last and some between, about evenly spaced, of the pictures that `stage` drew in training."""
    found = {int(match[1]): path for path in store.list("samples/") if (match := re.fullmatch(rf"samples/{stage}-(\d+)\.png", path))}
    images = sorted(found)
    chosen = sorted({images[round(place)] for place in np.linspace(0, len(images) - 1, min(count, len(images)))}) if images else []
    return [SamplePicture(at, decode_png(store.read(found[at]))) for at in chosen]


def light(board: np.ndarray) -> bytes:
    """JPEG of a picture uint8 [3, h, w], by a whole factor smaller where it is wider than MOST_ACROSS."""
    factor = -(-board.shape[-1] // MOST_ACROSS)
    if factor > 1:
        board = _pooled(board, factor)
    return encode_jpeg(board, QUANTIZER)


def _pooled(pictures: np.ndarray, factor: int) -> np.ndarray:
    """Means of blocks of `factor` by `factor` pixels of uint8 [..., h, w]."""
    *rest, height, width = pictures.shape
    blocks = pictures.reshape(*rest, height // factor, factor, width // factor, factor)
    return blocks.mean((-3, -1)).round().astype(np.uint8)


def pairs_picture(shards: ShardSet, run: Run, count: int = 32) -> np.ndarray:
    """Real pairs as training sees them, former and latter frame side by side."""
    windows = pair_windows(shards, run, "report")
    seen: dict[int, int] = {}
    turns: list[tuple[int, Item]] = []
    for index in range(-(-4 * count // windows.items_per_window)):
        for item in windows[index]:
            seen[item.video] = seen.get(item.video, 0) + 1
            turns.append((seen[item.video], item))
    # As many videos as there are, before one is shown again.
    chosen = [item for _, item in sorted(turns, key=lambda turn: turn[0])[:count]]
    pairs = decode_window(shards, chosen)
    return tiled(pairs.reshape(-1, *pairs.shape[2:]), 8)


@torch.no_grad()
def code_pictures(folder: RunFolder, codes: dict[str, Tensor]) -> tuple[list[CodePicture], list[str]]:
    """A picture per motion code of the run's method, and what could not be drawn, in words."""
    generator, run = load_generator(folder), folder.run
    w = latents(generator, run, "report codes", 0, CODE_LATENTS)
    base = synthesize(generator, w)
    pictures, troubles = [], []
    for direction in DIRECTIONS:
        for number, code in enumerate(codes[direction], 1):
            try:
                pictures.append(CodePicture(direction, number, _code_picture(generator, w, base, code, DIRECTIONS[direction])))
            except InputError:
                troubles.append(f"{direction} code {number} does not reach a mean squared difference of {VISIBLE_MSE:g} at any strength")
    return pictures, troubles


def _code_picture(generator: nets.Generator, w: Tensor, base: Tensor, code: Tensor, edited: int) -> np.ndarray:
    """A row per latent, for the former and then the latter frame: before, after, and their amplified difference."""
    edits = equal_edits(functools.partial(synthesize, generator), w, code[None], edited, VISIBLE_MSE)
    after = synthesize(generator, in_space_of(code, w) + edits.alpha[0].to(w)[:, None] * code)
    before, after = base.clamp(-1, 1), after.clamp(-1, 1)
    # A difference of [-1, 1] frames is up to 2 wide; 0 is shown as black.
    difference = (AMPLIFY * (after - before).abs() / 2).clamp(0, 1) * 2 - 1
    cells = torch.stack([before, after, difference], dim=2).flatten(0, 2)
    if cells.shape[-1] > CODE_SIZE:
        cells = F.adaptive_avg_pool2d(cells, CODE_SIZE)
    return tiled(to_uint8(cells), len(CODE_COLUMNS))


def generated_movie(generator: Generator, seeds: range, num_frames: int, columns: int) -> bytes:
    """MP4 of videos of `seeds` in a grid, row by row, at their natural speed."""
    return encode_video(_tile(generator.sample(seeds, num_frames), columns), generator.fps(), ".mp4")


def real_movie(shards: ShardSet, folder: RunFolder, count: int, columns: int) -> bytes:
    """MP4 of real clips at the stride of stage 3, at their natural speed."""
    clips = np.stack(list(real_clips(shards, folder, count)))
    return encode_video(_tile(clips, columns), float(np.median(shards.fps)) / folder.run.stride, ".mp4")


def _tile(videos: np.ndarray, columns: int) -> np.ndarray:
    """Videos [n, t, 3, h, w] -> one video [t, 3, H, W]."""
    if videos.shape[-1] > VIDEO_SIZE:
        videos = _pooled(videos, videos.shape[-1] // VIDEO_SIZE)
    factor = VIDEO_SIZE // videos.shape[-1]
    return np.stack([grid(upscale(frames, factor), min(columns, len(videos))) for frames in videos.swapaxes(0, 1)])
