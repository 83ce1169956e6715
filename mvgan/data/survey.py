"""What is in a shard set, in numbers: lengths, rates, sizes, pairs, and the sources that are not as they should be."""

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvgan.config import InputError, Pairs, Run
from mvgan.data.shards import ShardSet
from mvgan.data.windows import Frames, decode_window, pair_windows


BINS = 12
"""Most bars of the histogram of lengths."""


@dataclass(frozen=True)
class PairCount:
    """What stage 1 can draw at one interval."""

    interval: int
    num_videos: int
    """Videos long enough for a pair."""
    num_pairs: int
    """Pairs (t, t + k) within a video, each counted once."""
    num_ordered: int
    """The same in both orders, as windows draw them."""
    span_ms: tuple[float, float]
    """How far apart the frames of a pair are, least and most, by the rates of those videos."""

    @property
    def span(self) -> str:
        """The same in words."""
        least, most = (round(value) for value in self.span_ms)
        return f"{least} ms" if least == most else f"{least} to {most} ms"


@dataclass(frozen=True)
class Survey:
    """A shard set in numbers."""

    uri: str
    resolution: int
    num_videos: int
    num_frames: int
    num_pieces: int
    num_shards: int
    num_bytes: int
    lengths: dict[str, float]
    """max, min, mean and variance, as in Table VII of the paper."""
    histogram: list[tuple[int, int, int]]
    """Shortest and longest length of a bar, and how many videos it has."""
    rates: list[tuple[float, int]]
    """Frames per second, and how many videos have them."""
    sizes: list[tuple[str, int]]
    """Size of the sources, WIDTHxHEIGHT, and how many have it; most frequent first."""
    pairs: list[PairCount]
    damaged: list[tuple[str, str]]
    """Source and what is wrong with it: taken up to the damage."""
    notes: list[tuple[str, str]]
    """Source and what was changed or ignored in it, its variable frame rate among them."""
    rejected: list[tuple[str, str, str]]
    """Source, kind of reason (undecodable, minimum or limit) and reason."""


def survey(shards: ShardSet, intervals: Sequence[int]) -> Survey:
    """Count what is in `shards`, from its manifest alone. Raises InputError for an interval below 1."""
    if not intervals or min(intervals) < 1:
        raise InputError(f"interval {','.join(map(str, intervals))} is below 1; give k >= 1 frames between the frames of a pair")
    manifest = shards.manifest
    videos: list[dict[str, Any]] = manifest["videos"]
    sizes = collections.Counter(f"{video['width']}x{video['height']}" for video in videos)
    return Survey(
        uri=shards.uri,
        resolution=shards.resolution,
        num_videos=len(videos),
        num_frames=int(shards.lengths.sum()),
        num_pieces=sum(shards.num_pieces(video) for video in range(len(shards))),
        num_shards=len(manifest["shards"]),
        num_bytes=sum(shard["bytes"] for shard in manifest["shards"]),
        lengths=manifest["lengths"],
        histogram=histogram(shards.lengths.tolist()),
        rates=sorted(collections.Counter(round(rate, 6) for rate in shards.fps.tolist()).items()),
        sizes=sizes.most_common(),
        pairs=[_pairs(shards, interval) for interval in intervals],
        damaged=[(video["source"], video["damaged"]) for video in videos if "damaged" in video],
        notes=[(video["source"], note) for video in videos for note in _notes(video)],
        rejected=[(item["source"], item.get("kind", "undecodable"), item["reason"]) for item in manifest["rejected"]],
    )


def _notes(video: dict[str, Any]) -> list[str]:
    spread = video.get("variable_rate")
    rate = (
        [f"variable frame rate: {spread['min_ms']:g} to {spread['max_ms']:g} ms a frame, {spread['distinct']} durations"] if spread else []
    )
    return rate + list(video.get("notes", ()))


def _pairs(shards: ShardSet, interval: int) -> PairCount:
    long = shards.lengths > interval
    count = int((shards.lengths[long] - interval).sum())
    spans = 1000 * interval / shards.fps[long]
    return PairCount(interval, int(long.sum()), count, 2 * count, (float(spans.min()), float(spans.max())) if long.any() else (0.0, 0.0))


def histogram(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """Bars (shortest length, longest length, videos) of equal width, at most BINS of them, that cover `lengths` without a gap."""
    if not lengths:
        return []
    first = min(lengths)
    width = -(-(max(lengths) - first + 1) // BINS)
    bars = -(-(max(lengths) - first + 1) // width)
    counts = np.bincount((np.asarray(lengths) - first) // width, minlength=bars)
    return [(first + i * width, first + (i + 1) * width - 1, int(count)) for i, count in enumerate(counts)]


def sample_frames(shards: ShardSet, count: int) -> Frames:
    """The middle frames [n, 3, h, w] of up to `count` videos, evenly spaced over the set."""
    chosen = sorted({round(place) for place in np.linspace(0, len(shards) - 1, min(count, len(shards)))})
    middles = [divmod(int(shards.lengths[video]) // 2, shards.frames_per_piece) for video in chosen]
    return np.stack([shards.frames(video, piece)[place] for video, (piece, place) in zip(chosen, middles, strict=True)])


def sample_pairs(shards: ShardSet, interval: int, count: int) -> Frames:
    """`count` pairs [count, 2, 3, h, w] in either order, of as many videos as there are.

    Raises InputError when no video is long enough.
    """
    windows = pair_windows(shards, Run(interval=(interval,), pairs=Pairs(balance="videos")), "inspect")
    turns: dict[int, int] = collections.Counter()
    drawn = []
    for index in range(-(-4 * count // windows.items_per_window)):
        for item in windows[index]:
            drawn.append((turns[item.video], item))
            turns[item.video] += 1
    chosen = [item for _, item in sorted(drawn, key=lambda turn: turn[0])[:count]]
    return decode_window(shards, chosen)


def lines(found: Survey) -> list[str]:
    """The survey as text."""
    size = found.num_bytes / (1 << 20)
    text = [
        f"{found.uri}: {found.num_videos} videos, {found.num_frames} frames at {found.resolution} px in {found.num_pieces} pieces, "
        f"{found.num_shards} shards, {size:.1f} MB",
        "length in frames: max {max}, min {min}, mean {mean:.2f}, variance {variance:.2f}".format(**found.lengths),
    ]
    widest = max((count for _, _, count in found.histogram), default=1)
    for first, last, count in found.histogram:
        span = f"{first}" if first == last else f"{first} to {last}"
        text.append(f"  {span:>14}  {'#' * -(-40 * count // widest):<40}  {count} videos")
    text += [f"frame rate: {rate:g} a second in {count} videos" for rate, count in found.rates]
    text += [f"source size: {name} in {count} videos" for name, count in found.sizes[:BINS]]
    if len(found.sizes) > BINS:
        text.append(f"source size: {len(found.sizes) - BINS} more sizes in {sum(count for _, count in found.sizes[BINS:])} videos")
    for pair in found.pairs:
        counts = f"{pair.num_pairs}, in both orders {pair.num_ordered}, from {pair.num_videos} videos, {pair.span}"
        text.append(f"pairs at interval {pair.interval}: {counts if pair.num_pairs else 'none, no video is long enough'}")
    text += [f"note: {source} {note}" for source, note in found.notes]
    text += [f"damaged: {source} {damage}" for source, damage in found.damaged]
    kinds = collections.Counter(kind for _, kind, _ in found.rejected)
    text.append(f"rejected: {len(found.rejected)}" + "".join(f", {count} {kind}" for kind, count in sorted(kinds.items())))
    return text + [f"rejected: {source} {reason}" for source, _, reason in found.rejected]
