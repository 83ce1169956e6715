"""Windows: which pairs or clips are drawn, as a pure function of (seed, purpose, window index).

A *cell* is one thing that can be drawn: (video, option, start t), where an option is a tuple of frame offsets,
(0, k) for a pair of interval k and (0, s, 2s, ...) for a clip of stride s, and t + max(option) lies within the video.
A window names a few pieces of different videos and draws a fixed number of cells from each, so that a decoded piece
serves several pairs; every cell still has exactly its stated probability.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mvgan.config import InputError, Run


Ints = NDArray[np.int64]
Frames = NDArray[np.uint8]


class Shards(Protocol):
    """What windows ask of a shard set."""

    @property
    def frames_per_piece(self) -> int:
        """Frames of each piece of a video but its last."""

    @property
    def lengths(self) -> Ints:
        """Frames of each video [num_videos]."""

    def frames(self, video: int, piece: int, places: Sequence[int]) -> Frames:
        """The frames at `places`, ascending, of one piece [places, 3, h, w]."""


@dataclass(frozen=True)
class Item:
    """One pair or clip: `frames` of `video` in the order in which they are shown, mirrored left to right or not."""

    video: int
    frames: tuple[int, ...]
    mirror: bool


class Windows:
    """All windows of one purpose; `windows[index]` gives the items of a window, for any index >= 0.

    lengths: frames per video [num_videos]. options: offsets of a cell's frames, each ascending from 0.
    reverse, mirror: each item is reversed or mirrored with probability 1/2, independently.
    balance: "frames" draws uniformly over all cells; "videos" over the videos that have cells, then over their cells.
    The videos of a window differ whenever none has more than 1 / pieces_per_window of the probability.
    Raises InputError when no video is long enough for one of the options.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Ints,
        frames_per_piece: int,
        options: tuple[tuple[int, ...], ...],
        *,
        reverse: bool,
        mirror: bool,
        balance: Literal["frames", "videos"],
        pieces_per_window: int,
        items_per_piece: int,
        seed: int,
        purpose: str,
    ) -> None:
        self.frames_per_piece = frames_per_piece
        self.options = options
        self.reverse = reverse
        self.mirror = mirror
        self.balance = balance
        self.pieces_per_window = pieces_per_window
        self.items_per_piece = items_per_piece
        self.seed = seed
        self.purpose = purpose
        lengths = np.asarray(lengths, dtype=np.int64)
        self._spans = np.array([max(option) for option in options], dtype=np.int64)
        longest = int(lengths.max(initial=0))
        if longest <= self._spans.max():
            raise InputError(
                f"no video is long enough to draw from: {self._spans.max() + 1} frames are needed and the longest video has {longest}; "
                "take a smaller interval (pairs), fewer frames or a smaller stride (clips), or longer videos"
            )
        # Cells per video and option [videos, options]; videos too short for every option are never drawn.
        cells = np.maximum(lengths[:, None] - self._spans, 0)
        self._videos: Ints = np.flatnonzero(cells.sum(1)).astype(np.int64)
        self._cells: Ints = cells[self._videos]

    @property
    def num_drawn(self) -> int:
        """Videos that are long enough to be drawn from."""
        return len(self._videos)

    @property
    def items_per_window(self) -> int:
        """Items of every window."""
        return self.pieces_per_window * self.items_per_piece

    @property
    def frames_per_item(self) -> int:
        """Frames of every item: 2 of a pair."""
        return len(self.options[0])

    def __getitem__(self, index: int) -> tuple[Item, ...]:
        if index < 0:
            raise ValueError(f"window indices start at 0; got {index}")
        rng = self._rng(index)
        items = [item for video, piece in self._pieces(rng) for item in self._draw(rng, int(video), int(piece))]
        return tuple(items[i] for i in rng.permutation(len(items)))

    def _rng(self, index: int) -> np.random.Generator:
        """Stateless randomness: a counter-based generator keyed by what the window is."""
        key = hashlib.sha256(f"{self.seed}/{index}/{self.purpose}".encode()).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))

    def _pieces(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Rows (position in `_videos`, piece) [pieces_per_window, 2], each piece as likely as it has cells to start in."""
        order = rng.permutation(len(self._videos))
        totals = self._cells.sum(1)
        weights = totals[order] if self.balance == "frames" else np.ones_like(order)
        slots, cells = systematic(weights, int(rng.integers(weights.sum())), self.pieces_per_window)
        videos = order[slots]
        if self.balance == "videos":
            cells = rng.integers(totals[videos])
        # A video's cells lie option after option: find the option, and with it the start frame.
        ends = self._cells[videos].cumsum(1)
        option = (cells[:, None] >= ends).sum(1)
        starts = cells - (ends - self._cells[videos])[np.arange(len(cells)), option]
        return np.stack([videos, starts // self.frames_per_piece], axis=1)

    def _draw(self, rng: np.random.Generator, video: int, piece: int) -> list[Item]:
        """`items_per_piece` cells that start in the piece: none again before all have been drawn."""
        first = piece * self.frames_per_piece
        counts = np.clip(self._cells[video] - first, 0, self.frames_per_piece)
        ends = counts.cumsum()
        total = int(ends[-1])
        rounds = [rng.permutation(total) for _ in range(-(-self.items_per_piece // total))]
        cells = np.concatenate(rounds)[: self.items_per_piece]
        which = np.searchsorted(ends, cells, side="right")
        starts = first + cells - (ends - counts)[which]
        backward = rng.random(len(cells)) < 0.5 * self.reverse
        mirrored = rng.random(len(cells)) < 0.5 * self.mirror
        items = []
        for option, start, back, mirror in zip(which.tolist(), starts.tolist(), backward.tolist(), mirrored.tolist(), strict=True):
            frames = tuple(start + offset for offset in self.options[option])
            items.append(Item(int(self._videos[video]), frames[::-1] if back else frames, mirror))
        return items


def systematic(weights: Ints, first: int, count: int) -> tuple[Ints, Ints]:
    """`count` equally spaced points on a line on which each slot takes its integer weight: (slots, places in them) [count].

    With `first` uniform over range(sum of weights) every place is met count / sum of weights times on average, exactly:
    the points floor((first + i * sum) / count), over all `first` and i, hit each place `count` times. A slot of at
    most sum / count is met at most once. (Systematic sampling: Madow and Madow, Ann. Math. Stat. 15, 1944.)
    """
    ends = np.cumsum(weights)
    places = (first + np.arange(count, dtype=np.int64) * ends[-1]) // count
    slots = np.searchsorted(ends, places, side="right")
    return slots, places - (ends - weights)[slots]


def pair_windows(shards: Shards, run: Run, purpose: str = "train") -> Windows:
    """The windows of stage 1: pairs of every interval of `run`, in both orders; or single frames."""
    pairs = run.network.frames == 2
    return Windows(
        shards.lengths,
        shards.frames_per_piece,
        tuple((0, interval) for interval in run.interval) if pairs else ((0,),),
        reverse=pairs,
        mirror=run.pairs.mirror,
        balance=run.pairs.balance,
        pieces_per_window=run.pairs.pieces_per_window,
        items_per_piece=run.pairs.pairs_per_piece,
        seed=run.seed,
        purpose=f"pairs/{purpose}",
    )


def clip_windows(shards: Shards, run: Run, purpose: str = "train") -> Windows:
    """The windows of stage 3: clips of `run.video.num_frames` frames at `run.stride`, one per piece.

    They are mirrored when the pairs are, as the pair generator then makes mirrored frames too.
    """
    return Windows(
        shards.lengths,
        shards.frames_per_piece,
        (tuple(range(0, run.video.num_frames * run.stride, run.stride)),),
        reverse=False,
        mirror=run.pairs.mirror,
        balance=run.video.balance,
        pieces_per_window=run.video.pieces_per_window,
        items_per_piece=1,
        seed=run.seed,
        purpose=f"clips/{purpose}",
    )


def decode_window(shards: Shards, items: Sequence[Item]) -> Frames:
    """The frames of `items` [items, frames, 3, h, w]; each piece is decoded once, as far as it is needed, and then let go."""
    wanted: dict[tuple[int, int], dict[int, list[tuple[int, int]]]] = {}
    for i, item in enumerate(items):
        for j, frame in enumerate(item.frames):
            piece, place = divmod(frame, shards.frames_per_piece)
            wanted.setdefault((item.video, piece), {}).setdefault(place, []).append((i, j))
    out: Frames | None = None
    for (video, piece), uses in sorted(wanted.items()):
        places = sorted(uses)
        frames = shards.frames(video, piece, places)
        if out is None:
            out = np.empty((len(items), len(items[0].frames), *frames.shape[1:]), dtype=np.uint8)
        for place, frame in zip(places, frames, strict=True):
            for i, j in uses[place]:
                out[i, j] = frame[..., ::-1] if items[i].mirror else frame
    if out is None:
        raise ValueError("a window without items has no frames")
    return out
