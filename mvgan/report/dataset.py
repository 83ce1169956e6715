"""A shard set drawn: histogram of lengths, pairs at each interval, rates, contact sheets of frames and of pairs."""

import io
from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mvgan.data.shards import ShardSet
from mvgan.data.survey import Survey, lines, sample_frames, sample_pairs
from mvgan.media import encode_png, grid, upscale
from mvgan.report import charts, markup


COLUMNS = 8
SHOWN_FRAMES = 4 * COLUMNS
SHOWN_PAIRS = COLUMNS
"""Pairs of each interval in the contact sheet."""
SHEET_SIZE = 96
"""Least pixels of a frame in a contact sheet: small ones are magnified."""
PNG_COLOURS = ("#2f6fdb", "#d9622b", "#2a9460")
PNG_WIDTH = 11.0
"""Inches."""

Draw = Callable[[Axes, Survey, Sequence[str]], str]
"""Draws on the axes in the given colours and returns what it shows in words."""


def draw_lengths(axes: Axes, found: Survey, colours: Sequence[str]) -> str:
    """Histogram of the lengths of videos."""
    left = [first - 0.5 for first, _, _ in found.histogram]
    widths = [last - first + 1 for first, last, _ in found.histogram]
    axes.bar(left, [count for _, _, count in found.histogram], widths, align="edge", color=colours[0], linewidth=0.5, edgecolor="white")
    axes.set_xlabel("frames")
    axes.set_title(f"videos by length; dashed: mean {found.lengths['mean']:.1f}", fontsize=9, loc="left")
    axes.locator_params(integer=True)
    axes.margins(x=0.1)
    axes.axvline(found.lengths["mean"], color=colours[1], linestyle="--", linewidth=1.2)
    return f"Histogram: {found.num_videos} videos of {found.lengths['min']} to {found.lengths['max']} frames"


def draw_pairs(axes: Axes, found: Survey, colours: Sequence[str]) -> str:
    """Pairs in both orders and videos at each interval."""
    places = range(len(found.pairs))
    bars = axes.bar(places, [pair.num_ordered for pair in found.pairs], 0.7, color=colours[0])
    axes.bar_label(bars, [f"{pair.num_ordered:,}\n{pair.num_videos} videos" for pair in found.pairs], fontsize=7, padding=2)
    axes.set_xticks(list(places), [str(pair.interval) for pair in found.pairs])
    axes.set_ylim(0, 1.25 * max(1, *(pair.num_ordered for pair in found.pairs)))
    axes.set_xlabel("interval k, frames")
    axes.set_title("pairs in both orders", fontsize=9, loc="left")
    counts = ", ".join(f"{pair.num_ordered} at {pair.interval}" for pair in found.pairs)
    return f"Bar chart of pairs by interval: {counts}"


def draw_sources(axes: Axes, found: Survey, colours: Sequence[str]) -> str:
    """What became of the sources."""
    sound = found.num_videos - len(found.damaged)
    kinds = [("whole", sound), ("damaged", len(found.damaged))]
    kinds += [(kind, sum(found_kind == kind for _, found_kind, _ in found.rejected)) for kind in ("minimum", "limit", "undecodable")]
    names = ["taken", "taken up to\nthe damage", "too short\nor small", "over a\nlimit", "undecodable"]
    bars = axes.bar(names, [count for _, count in kinds], 0.7, color=[colours[place] for place in (0, 2, 1, 1, 1)])
    axes.bar_label(bars, fontsize=8, padding=2)
    axes.tick_params(axis="x", labelsize=7)
    axes.margins(y=0.15)
    axes.set_title("sources", fontsize=9, loc="left")
    return "Bar chart of sources: " + ", ".join(f"{count} {name}" for name, count in kinds)


PANELS: tuple[tuple[str, Draw], ...] = (("lengths", draw_lengths), ("pairs of a set", draw_pairs), ("sources", draw_sources))


def frames_sheet(shards: ShardSet) -> np.ndarray:
    """The middle frames of up to SHOWN_FRAMES videos, uint8 [3, H, W]."""
    return _sheet(sample_frames(shards, SHOWN_FRAMES))


def pairs_sheet(shards: ShardSet, interval: int) -> np.ndarray:
    """Pairs in either order, former and latter frame side by side, uint8 [3, H, W]."""
    pairs = sample_pairs(shards, interval, SHOWN_PAIRS)
    return _sheet(pairs.reshape(-1, *pairs.shape[2:]))


def _sheet(images: np.ndarray) -> np.ndarray:
    return grid(upscale(images, max(1, -(-SHEET_SIZE // images.shape[-1]))), min(COLUMNS, len(images)))


def _sheets(shards: ShardSet, found: Survey) -> list[tuple[str, np.ndarray]]:
    drawn = [("the middle frame of videos spread over the set", frames_sheet(shards))]
    for pair in found.pairs:
        if pair.num_pairs:
            words = f"pairs at interval {pair.interval} ({pair.span}), former and latter frame side by side"
            drawn.append((words, pairs_sheet(shards, pair.interval)))
    return drawn


def dataset_html(shards: ShardSet, found: Survey) -> str:
    """The page: charts, contact sheets, and lists of damaged and rejected sources."""
    size = f"{found.num_bytes / (1 << 20):.1f} MB"
    rows: list[tuple[object, object]] = [
        ("Videos", f"{found.num_videos:,}"),
        ("Frames", f"{found.num_frames:,}"),
        ("Longest, frames", found.lengths["max"]),
        ("Shortest, frames", found.lengths["min"]),
        ("Mean length, frames", f"{found.lengths['mean']:.2f}"),
        ("Variance of the length", f"{found.lengths['variance']:.2f}"),
        ("Pieces, shards, size", f"{found.num_pieces:,}, {found.num_shards}, {size}"),
        *((f"Frames a second: {rate:g}", f"{count} videos") for rate, count in found.rates),
        *((f"Size of the source: {name}", f"{count} videos") for name, count in found.sizes),
        *((f"Pairs at interval {p.interval}, both orders", f"{p.num_ordered:,} from {p.num_videos} videos") for p in found.pairs),
    ]
    drawn = [markup.chart(charts.panel(lambda axes, draw=draw: draw(axes, found, charts.LINES), name)) for name, draw in PANELS]  # type: ignore[misc]
    sheets = "".join(markup.image(encode_png(sheet), words, words) for words, sheet in _sheets(shards, found))
    lists = [("Damaged", found.damaged), ("Notes", found.notes), ("Rejected", [(name, reason) for name, _, reason in found.rejected])]
    odd = "".join(
        markup.details(f"{title} ({len(entries)})", markup.table(entries, "source and reason"))
        if entries
        else markup.paragraph(f"{title}: none.")
        for title, entries in lists
    )
    sections = [
        markup.Section(
            "numbers", "Numbers", markup.table(rows, "lengths as in the paper's Table VII, and more") + markup.columns(drawn, "three")
        ),
        markup.Section("pictures", "Pictures", sheets),
        markup.Section("odd", "Damaged, changed and rejected sources", odd),
    ]
    return markup.document("Shard set", f"{found.uri}, {found.resolution} px", sections)


def dataset_png(shards: ShardSet, found: Survey) -> bytes:
    """The same as one picture."""
    sheets = _sheets(shards, found)
    heights = [2.8] + [PNG_WIDTH * sheet.shape[1] / sheet.shape[2] + 0.3 for _, sheet in sheets]
    with mpl.rc_context(charts.STYLE):
        figure = Figure(figsize=(PNG_WIDTH, sum(heights) + 0.9), layout="constrained", dpi=110)
        FigureCanvasAgg(figure)
        figure.suptitle("\n".join(lines(found)[:2]), fontsize=9, ha="left", x=0.01)
        places = figure.add_gridspec(len(heights), len(PANELS), height_ratios=heights)
        for column, (_, draw) in enumerate(PANELS):
            axes = figure.add_subplot(places[0, column])
            draw(axes, found, PNG_COLOURS)
        for row, (words, sheet) in enumerate(sheets, 1):
            axes = figure.add_subplot(places[row, :])
            axes.imshow(sheet.transpose(1, 2, 0), interpolation="nearest", aspect="equal")
            axes.set_axis_off()
            axes.set_title(words, fontsize=9, loc="left")
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
