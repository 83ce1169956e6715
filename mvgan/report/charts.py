"""Charts as SVG that goes into a page: their colours are CSS variables, so that they follow its light or dark theme."""

import html
import io
import re
import textwrap
from collections.abc import Callable, Collection, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogFormatter, MaxNLocator

from mvgan.report.gates import MAX_FRECHET_SHARE, Measure
from mvgan.train.hooks import History


INK = "#010203"
"""Stands for the colour of text."""

LINES = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
"""Stand for the colours of the lines, --line-1 and so on."""

DASHES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))
"""Dashes and marks of lines of one colour, by which more can be told apart than there are colours."""

MOST_LINES = len(LINES) * len(DASHES)
"""That a chart can tell apart."""

LABEL = 60
"""Most characters in a row of a legend."""

SIZE = (4.6, 3.0)
"""Inches: small enough that its text stays readable on a phone."""

STYLE: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "axes.grid": True, "grid.color": INK,
    "grid.alpha": 0.15, "grid.linewidth": 0.5,
}  # fmt: skip


def frechet_chart(found: Sequence[Measure], real: Measure | None) -> str:
    """The Frechet distance over training with its bootstrap error, real against real below, and the bound of gate (a)."""
    figure, axes = _axes("pairs seen", "Fréchet distance (seeded features, not FID)")
    images = [measure.images for measure in found]
    values, errors = [measure.frechet for measure in found], [measure.error for measure in found]
    axes.errorbar(images, values, errors, color=LINES[0], marker="o", markersize=3, capsize=3, label="generated to real")
    axes.axhline(MAX_FRECHET_SHARE * found[0].frechet, color=LINES[1], linestyle="--", linewidth=1, label="a tenth of the first")
    if real is not None and real.frechet > 0:
        axes.axhline(real.frechet, color=LINES[2], linestyle=":", linewidth=1.2, label="real to real")
    _log_scale(axes)
    _legend(axes)
    ends = " to ".join(f"{m.frechet:.3g} at {m.images} pairs" for m in (found[0], found[-1]))
    return _svg(figure, "frechet", f"Line chart: Fréchet distance from {ends}")


def history_chart(history: History, keys: Sequence[str], unit: str, title: str) -> str | None:
    """Metrics over training; None when no record holds any of `keys`."""
    drawn = {key: [(record["images"], record[key]) for record in history if key in record] for key in keys}
    drawn = {key: points for key, points in drawn.items() if points}
    if not drawn:
        return None
    figure, axes = _axes(f"{unit} seen", title)
    for number, (key, points) in enumerate(drawn.items()):
        axes.plot(
            *zip(*points, strict=True),
            color=LINES[number % len(LINES)],
            marker="." if len(points) < 40 else "",
            label=key.replace("_", " "),
        )
    _legend(axes)
    ends = ", ".join(f"{key.replace('_', ' ')} ends at {points[-1][1]:.3g}" for key, points in drawn.items())
    return _svg(figure, f"{unit} {title}", f"Line chart of {title}: {ends}")


def spectra_chart(codes: dict[str, Any]) -> str:
    """Eigenvalues of the mean Gram of each frame, and of those of single latents (thin), largest first, on a log scale."""
    figure, axes = _axes("number of the eigenvalue", "eigenvalue of the Gram")
    lowest = []
    for number, frame in enumerate(("former", "latter")):
        for sample in codes["samples"]:
            _draw_spectrum(axes, sample[frame]["spectrum"], LINES[number], None)
        mean = codes["mean"][frame]["spectrum"]
        _draw_spectrum(axes, mean, LINES[number], f"{frame} frame, mean")
        # Below a billionth of the largest there is rounding only.
        lowest.append(min(value for value in mean if value > mean[0] * 1e-9))
    axes.axvline(codes["num_codes"], color=INK, linewidth=0.7, linestyle=":")
    axes.set_yscale("log")
    axes.set_ylim(bottom=min(lowest) / 2)
    _legend(axes)
    tops = " and ".join(f"{codes['mean'][frame]['spectrum'][0]:.3g} ({frame})" for frame in ("former", "latter"))
    return _svg(figure, "spectra", f"Line chart: the spectra of the mean Grams fall from {tops}")


def _draw_spectrum(axes: Axes, values: Sequence[float], colour: str, label: str | None) -> None:
    positive = [(number, value) for number, value in enumerate(values, 1) if value > 0]
    width, alpha = (0.6, 0.3) if label is None else (1.4, 1.0)
    axes.plot(*zip(*positive, strict=True), color=colour, label=label, linewidth=width, alpha=alpha)


def ratios_chart(edits: dict[str, Any], direction: str, least: tuple[float, float]) -> str:
    """Edit ratio of each code of one direction, by method, with the bounds on median and worst."""
    figure, axes = _axes("code", f"{direction}: edited over kept frame")
    names = {"generalized": "generalised", "nullspace": "null space (eq. 8)", "official": "released code", "random": "random"}
    for number, (method, figures) in enumerate(edits.items()):
        if direction in figures:
            ratios = figures[direction]["ratios"]
            axes.plot(range(1, len(ratios) + 1), ratios, "o-", color=LINES[number], markersize=3, label=names[method])
    for bound, line in zip(least, ("--", ":"), strict=True):
        axes.axhline(bound, color=INK, linestyle=line, linewidth=0.7)
    _log_scale(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes)
    medians = ", ".join(f"{names[method]} {figures[direction]['median']:.3g}" for method, figures in edits.items() if direction in figures)
    return _svg(figure, f"ratios {direction}", f"Line chart of the edit ratios of {direction} codes; medians: {medians}")


Point = tuple[float, float]
"""A figure with its error, or a place with a figure."""


def sweep_chart(title: str, across: str, places: Sequence[str], lines: dict[str, dict[str, Point]]) -> str:
    """A figure of trials against one setting, whose values are `places`, a line for each combination of the others, at most MOST_LINES."""
    figure, axes = _axes(across, title)
    for number, (name, points) in enumerate(lines.items()):
        # Beside each other, as error bars at one place would cover each other.
        shift = min(0.08, 0.6 / len(lines)) * (number - (len(lines) - 1) / 2)
        found = [(places.index(place) + shift, *points[place]) for place in places if place in points]
        at, values, errors = zip(*found, strict=True)
        axes.errorbar(at, values, errors, **_line(number, name), markersize=4, capsize=3, linewidth=1)
    axes.set_xticks(range(len(places)), places)
    axes.set_ylim(bottom=0)
    if any(lines):
        _legend_of(lines, figure, axes)
    told = []
    for name, points in lines.items():
        words = ", ".join(f"{points[place][0]:.3g} at {place}" for place in places if place in points)
        told.append(f"{name or title}: {words}")
    return _svg(figure, f"sweep {title} {across}", f"Line chart of {title} against {across}: {'; '.join(told)}")


def curves_chart(title: str, across: str, lines: dict[str, list[Point]]) -> str:
    """Lines of (place, value) against one axis, at most MOST_LINES."""
    figure, axes = _axes(across, title)
    for number, (name, points) in enumerate(lines.items()):
        axes.plot(*zip(*points, strict=True), **_line(number, name), markersize=3, linewidth=1)
    axes.set_ylim(bottom=0)
    _legend_of(lines, figure, axes)
    ends = "; ".join(f"{name} ends at {points[-1][1]:.3g}" for name, points in lines.items())
    return _svg(figure, f"curves {title}", f"Line chart of {title}: {ends}")


def panel(draw: Callable[[Axes], str], name: str) -> str:
    """A chart by `draw`, which draws on the axes in INK and LINES and returns what it shows in words."""
    figure, axes = _axes("", "")
    with mpl.rc_context(STYLE):  # what is written on the axes takes its colour when it is made
        alt = draw(axes)
    return _svg(figure, name, alt)


def _axes(across: str, up: str) -> tuple[Figure, Axes]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
    axes.set_xlabel(across)
    axes.set_title(up, fontsize=9, loc="left")
    if across.endswith("seen"):
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(6))
    return figure, axes


def _log_scale(axes: Axes) -> None:
    """A log scale upwards, with plain numbers where there is room."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))


def _legend(axes: Axes) -> None:
    # Told here since the style holds while the axes are made, not when they are drawn on.
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _line(number: int, name: str) -> dict[str, Any]:
    """How the line of this number is drawn, and its name in the legend: no two lines of a chart are alike."""
    dash, marker = DASHES[number // len(LINES)]
    return {"color": LINES[number % len(LINES)], "linestyle": dash, "marker": marker, "label": textwrap.fill(name, LABEL)}


def _legend_of(names: Collection[str], figure: Figure, axes: Axes) -> None:
    """A legend within the axes, or of more lines than there are colours below them, where it covers none."""
    if len(names) <= len(LINES):
        _legend(axes)
        return
    rows = sum(len(textwrap.wrap(name, LABEL)) for name in names)
    figure.set_size_inches(SIZE[0], SIZE[1] + 0.17 * rows)
    figure.legend(loc="outside lower left", frameon=False, fontsize=8, labelcolor=INK, handlelength=4)


def _svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an <svg> element with `alt` as its name, its ids made its own by `name`."""
    file = io.StringIO()
    with mpl.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    prefix = re.sub(r"\W+", "-", name)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = svg.replace(INK, "currentColor")
    for number, colour in enumerate(LINES, 1):
        svg = svg.replace(colour, f"var(--line-{number})")
    label = html.escape(alt, quote=True)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{label}"><title>{label}</title>{rest}'
