"""`build_sweep_page`: from a sweep's folder to its `sweep.html`."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mvgan.config import to_dict
from mvgan.data.shards import ShardSet
from mvgan.report import charts, markup, pictures
from mvgan.sample import Generator
from mvgan.storage.run import read_run
from mvgan.storage.uri import open_store
from mvgan.sweep import Outcome, SweepFolder, described, shown
from mvgan.train.hooks import read_metrics


SEEDS = range(4)
"""Of the videos of each trial."""

BEST_SEEDS = range(16)
"""And of those of the best one."""

MOST_BYTES = 8 << 20
"""Of the videos of all trials: the page, with base64 and all else, stays below 15 MB."""

Failures = Mapping[str, str]
"""Why trials have failed, by their keys."""


def build_sweep_page(
    folder: SweepFolder, outcomes: Sequence[Outcome], failed: Failures, name: str = "sweep", first: Sequence[markup.Section] = ()
) -> str:
    """Draw everything and write `<name>.html` into the sweep's folder, the sections `first` before all others; returns where it is."""
    folder.store.write(f"{name}.html", render_sweep(folder, outcomes, failed, name, first).encode())
    return f"{folder.store.uri}/{name}.html"


def render_sweep(
    folder: SweepFolder, outcomes: Sequence[Outcome], failed: Failures, name: str = "sweep", first: Sequence[markup.Section] = ()
) -> str:
    """The page, as HTML."""
    base = folder.sweep.base
    lead = (
        f"{folder.store.uri}: {base.resolution} px, {len(outcomes)} trials, "
        f"each judged by {base.video.eval_clips} clips of {base.video.num_frames} frames at stride {base.stride}."
    )
    sections = [
        *first,
        _figure(folder, outcomes),
        _best(folder, outcomes),
        _table(folder, outcomes, failed, name),
        _glance(outcomes),
        _over_training(outcomes),
        _settings(folder),
    ]
    return markup.document(f"mvgan {name}: {folder.store.uri.rstrip('/').split('/')[-1]}", lead, sections)


def measured(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The trials that have come to their end."""
    return [each for each in outcomes if each.status == "done" and each.frechet is not None]


def ranked(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The same, best first."""
    return sorted(measured(outcomes), key=lambda each: each.frechet or 0.0)


def _figure(folder: SweepFolder, outcomes: Sequence[Outcome]) -> markup.Section:
    columns = folder.sweep.columns
    if not columns:
        return markup.Section("figure", "Figure", markup.notice("No setting has several values, so there is one trial."))
    if not measured(outcomes):
        return markup.Section("figure", "Figure", markup.notice("No trial has come to its end yet."))
    across = next(iter(columns))
    places = [shown(value) for value in columns[across]]
    errors = "standard deviation over seeds" if _has_seeds(folder) else "bootstrap error of one trial"
    drawn = [
        markup.chart(
            charts.sweep_chart("Fréchet distance of clips (lower is better)", across, places, _lines(folder, outcomes, across, "frechet")),
            f"Generated to real clips, in seeded features (not FVD). Bars: {errors}.",
        )
    ]
    for direction, frame in (("backward", "former"), ("forward", "latter")):
        lines = _lines(folder, outcomes, across, direction)
        if lines:
            title = f"edit ratio of the {direction} codes"
            caption = (
                f"Median over codes: how much more the {frame} frame changes, which they edit, than the other. Higher separates better."
            )
            drawn.append(markup.chart(charts.sweep_chart(title, across, places, lines), caption))
    return markup.Section("figure", "Figure", markup.columns(drawn, "three"))


def _has_seeds(folder: SweepFolder) -> bool:
    return "seed" in list(folder.sweep.columns)[1:]


def _lines(folder: SweepFolder, outcomes: Sequence[Outcome], across: str, name: str) -> dict[str, dict[str, charts.Point]]:
    """Values of a figure by the value of the setting `across`, for each combination of the others; seeds are averaged over."""
    alike = {across} | ({"seed"} if _has_seeds(folder) else set())
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for each in measured(outcomes):
        value = getattr(each, name)
        if value is not None:
            others = {path: other for path, other in each.trial.values.items() if path not in alike}
            error = each.frechet_error if name == "frechet" else None
            line = found.setdefault(described(others) if others else "", {})
            line.setdefault(shown(each.trial.values[across]), []).append((value, error or 0.0))
    return {line: {place: _joined(values, _has_seeds(folder)) for place, values in points.items()} for line, points in found.items()}


def _joined(values: Sequence[tuple[float, float]], seeds: bool) -> charts.Point:
    """The only value with its own error, or the mean over seeds with their deviation, of which one seed alone has none."""
    if len(values) == 1:
        return (values[0][0], 0.0) if seeds else values[0]
    figures = [value for value, _ in values]
    return float(np.mean(figures)), float(np.std(figures, ddof=1))


def _best(folder: SweepFolder, outcomes: Sequence[Outcome]) -> markup.Section:
    found = ranked(outcomes)
    if not found:
        return markup.Section("best", "Best trial", markup.notice("No trial has come to its end yet."))
    best, generator = found[0], Generator.load(found[0].uri)
    words = f"{described(best.trial.values)}: Fréchet distance {_with_error(best)}."
    rivals = [each for each in found[1:] if _at_least(each) < _at_most(best)]
    if rivals:
        words += (
            f" Within the errors of it: {'; '.join(described(each.trial.values) for each in rivals)}. This sweep does not tell them apart."
        )
    frames = generator.run.video.num_frames
    movies = [
        markup.movie(
            pictures.generated_movie(generator, BEST_SEEDS, frames, 4),
            f"16 videos of the best trial, {frames} frames, in a grid of 4 by 4, playing",
            "Generated, seeds 0 to 15 row by row.",
        ),
        markup.movie(
            pictures.real_movie(ShardSet.open(folder.sweep.data, verify=False), read_run(best.uri), 16, 4),
            "Up to 16 real clips in a grid, playing",
            "Real clips at the same stride and length.",
        ),
    ]
    return markup.Section("best", "Best trial", markup.paragraph(words) + markup.columns(movies))


def _at_least(each: Outcome) -> float:
    return (each.frechet or 0.0) - (each.frechet_error or 0.0)


def _at_most(each: Outcome) -> float:
    return (each.frechet or 0.0) + (each.frechet_error or 0.0)


def _with_error(each: Outcome) -> str:
    if each.frechet is None:
        return ""
    return f"{each.frechet:.4g}" + ("" if each.frechet_error is None else f" ± {each.frechet_error:.2g}")


def _table(folder: SweepFolder, outcomes: Sequence[Outcome], failed: Failures, name: str) -> markup.Section:
    heads = [*folder.sweep.columns, "status", "clips", "Fréchet distance", "backward ratio", "forward ratio", "run"]
    rows = []
    for each in outcomes:
        ratios = ["" if value is None else f"{value:.2f}" for value in (each.backward, each.forward)]
        status = f"failed: {failed[each.trial.key]}" if each.trial.key in failed else each.status
        values = [shown(value) for value in each.trial.values.values()]
        rows.append([*values, status, f"{each.clips:,}", _with_error(each), *ratios, each.uri.removeprefix(f"{folder.store.uri}/")])
    words = f"The report of one trial: `python -m jobs.report --run` with its folder. The figures are in {name}.csv and {name}.parquet too."
    return markup.Section("trials", "All trials", markup.paragraph(words) + markup.grid_table(heads, rows, "trials and their figures"))


def _glance(outcomes: Sequence[Outcome]) -> markup.Section:
    cells, left = [], 0
    for each, mp4 in _movies(outcomes):
        if mp4 is None:
            left += 1
        else:
            caption = f"{described(each.trial.values)}: {_with_error(each)}"
            cells.append(markup.movie(mp4, f"{len(SEEDS)} videos of the trial of {described(each.trial.values)}, playing", caption))
    body = markup.columns(cells, "three") if cells else markup.notice("No trial has come to its end yet.")
    if left:
        body += markup.notice(f"{left} more trials are not shown, so that the page stays below 15 MB; generate their videos by their runs.")
    return markup.Section("glance", "All trials at a glance", markup.paragraph("Best first, the same seeds.") + body)


def _movies(outcomes: Sequence[Outcome]) -> Iterator[tuple[Outcome, bytes | None]]:
    """Each trial that is done with its videos, as long as there is room for them."""
    used = 0
    for each in ranked(outcomes):
        if used > MOST_BYTES:
            yield each, None
            continue
        generator = Generator.load(each.uri)
        mp4 = pictures.generated_movie(generator, SEEDS, generator.run.video.num_frames, 2)
        used += len(mp4)
        yield each, mp4


def _over_training(outcomes: Sequence[Outcome]) -> markup.Section:
    lines = {}
    for each in outcomes:
        records = [record for record in read_metrics(open_store(each.uri), "video") if "frechet" in record]
        if records:
            lines[described(each.trial.values)] = [(record["images"], record["frechet"]) for record in records]
    if not lines:
        return markup.Section("training", "Over training", markup.notice("No trial has been measured yet."))
    drawn = charts.curves_chart("Fréchet distance of clips over stage 3", "clips seen", lines)
    return markup.Section("training", "Over training", markup.chart(drawn, "A line a trial; those that end early were stopped."))


def _settings(folder: SweepFolder) -> markup.Section:
    axes = [(path, "  ".join(shown(value) for value in values)) for path, values in folder.sweep.columns.items()]
    body = markup.table(axes, "settings that vary") + markup.config_tables(to_dict(folder.sweep.base))
    return markup.Section("settings", "Settings", body)
