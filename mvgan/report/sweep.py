"""`build_sweep_page`: from a sweep's folder to its `sweep.html`."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from mvgan.data.shards import ShardSet
from mvgan.report import charts, markup, pictures
from mvgan.report.combined import SEED, Combination, combined, ranked, with_error
from mvgan.sample import Generator
from mvgan.settings import to_dict
from mvgan.storage.run import read_run
from mvgan.storage.uri import open_store
from mvgan.sweep import Outcome, SweepFolder, described, shown
from mvgan.train.hooks import read_metrics


SEEDS = range(4)
"""Of the videos of each trial."""

BEST_SEEDS = range(16)
"""And of those of the best one."""

MOST_BYTES = 10 << 20
"""Of all videos of the page, which with base64 and all else stays below 15 MB; those of the best trial come first."""

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
    combinations = ranked(combined(outcomes))
    trials = [each for combination in combinations for each in combination.outcomes]
    shown_best = _best_movies(folder, trials[0]) if trials else []
    sections = [
        *first,
        _figure(folder, combinations),
        _best(combinations, shown_best),
        _table(folder, outcomes, failed, name),
        _glance(trials, MOST_BYTES - sum(map(len, shown_best))),
        _over_training(trials, outcomes, failed),
        _settings(folder),
    ]
    return markup.document(f"mvgan {name}: {folder.store.uri.rstrip('/').split('/')[-1]}", lead, sections)


def _figure(folder: SweepFolder, combinations: Sequence[Combination]) -> markup.Section:
    columns = folder.sweep.columns
    across = next((path for path in columns if path != SEED), None)
    if across is None:
        words = "Of all settings only the seed has several values." if columns else "No setting has several values, so there is one trial."
        return markup.Section("figure", "Figure", markup.notice(words))
    if not combinations:
        return markup.Section("figure", "Figure", markup.notice("No trial has come to its end yet."))
    places = [shown(value) for value in columns[across]]
    errors = "standard deviation over seeds" if SEED in columns else "bootstrap error of one trial"
    titles = {"frechet": "Fréchet distance of clips (lower is better)"}
    captions = {"frechet": f"Generated to real clips, in seeded features (not FVD). Bars: {errors}."}
    for direction, frame in (("backward", "former"), ("forward", "latter")):
        titles[direction] = f"edit ratio of the {direction} codes"
        captions[direction] = (
            f"Median over codes: how much more the {frame} frame changes, which they edit, than the other. Higher separates better."
        )
    drawn, left = [], 0
    for name, title in titles.items():
        lines = _lines(combinations, across, name)
        left = max(left, len(lines) - charts.MOST_LINES)
        if lines:
            chosen = dict(islice(lines.items(), charts.MOST_LINES))
            drawn.append(markup.chart(charts.sweep_chart(title, across, places, chosen), captions[name]))
    body = markup.columns(drawn, "three")
    if left:
        body += markup.notice(f"{left} more lines are not drawn, as they could not be told apart; those that are have the best trials.")
    if any(len(each.outcomes) < each.seeds for each in combinations):
        body += markup.notice(
            "Of some combinations not all seeds have ended. Their means are of those that have, and they rank behind others."
        )
    return markup.Section("figure", "Figure", body)


def _lines(combinations: Sequence[Combination], across: str, name: str) -> dict[str, dict[str, charts.Point]]:
    """Values of a figure by the value of the setting `across`, for each combination of the others; seeds are averaged over."""
    found: dict[str, dict[str, charts.Point]] = {}
    for each in combinations:
        figure = each.figure(name)
        if figure is not None:
            others = {path: other for path, other in each.values.items() if path != across}
            line = found.setdefault(described(others) if others else "", {})
            line[shown(each.values[across])] = (figure[0], figure[1] or 0.0)
    return found


def _best_movies(folder: SweepFolder, best: Outcome) -> list[bytes]:
    """Videos of the best trial, and real ones."""
    generator = Generator.load(best.uri)
    return [
        pictures.generated_movie(generator, BEST_SEEDS, generator.run.video.num_frames, 4),
        pictures.real_movie(ShardSet.open(folder.sweep.data, verify=False), read_run(best.uri), 16, 4),
    ]


def _best(combinations: Sequence[Combination], movies: Sequence[bytes]) -> markup.Section:
    if not combinations:
        return markup.Section("best", "Best trial", markup.notice("No trial has come to its end yet."))
    best, trial = combinations[0], combinations[0].outcomes[0].trial
    words = f"{described(best.values)}: Fréchet distance {with_error(best.figure('frechet'))}{best.over}."
    rivals = [each for each in combinations[1:] if each.distance[0] - each.distance[1] < sum(best.distance)]
    if rivals:
        words += f" Within the errors of it: {'; '.join(described(each.values) for each in rivals)}. This sweep does not tell them apart."
    by = f" by the trial of seed {trial.run.seed}, the best of these seeds" if best.seeds > 1 else ""
    generated, real = movies
    shown_movies = [
        markup.movie(
            generated,
            f"16 videos of the best trial, {trial.run.video.num_frames} frames, in a grid of 4 by 4, playing",
            f"Generated{by}, videos of seeds 0 to 15 row by row.",
        ),
        markup.movie(real, "Up to 16 real clips in a grid, playing", "Real clips at the same stride and length."),
    ]
    return markup.Section("best", "Best trial", markup.paragraph(words) + markup.columns(shown_movies))


def _table(folder: SweepFolder, outcomes: Sequence[Outcome], failed: Failures, name: str) -> markup.Section:
    heads = [*folder.sweep.columns, "status", "clips", "Fréchet distance", "backward ratio", "forward ratio", "run"]
    rows = []
    for each in outcomes:
        ratios = ["" if value is None else f"{value:.2f}" for value in (each.backward, each.forward)]
        status = f"failed: {failed[each.trial.key]}" if each.trial.key in failed else each.status
        distance = with_error(None if each.frechet is None else (each.frechet, each.frechet_error))
        values = [shown(value) for value in each.trial.values.values()]
        rows.append([*values, status, f"{each.clips:,}", distance, *ratios, each.uri.removeprefix(f"{folder.store.uri}/")])
    words = f"The report of one trial: `python -m jobs.report --run` with its folder. The figures are in {name}.csv and {name}.parquet too."
    return markup.Section("trials", "All trials", markup.paragraph(words) + markup.grid_table(heads, rows, "trials and their figures"))


def _glance(trials: Sequence[Outcome], room: int) -> markup.Section:
    cells, left = [], 0
    for each, mp4 in _movies(trials, room):
        if mp4 is None:
            left += 1
        else:
            caption = f"{described(each.trial.values)}: {with_error((each.frechet or 0.0, each.frechet_error))}"
            cells.append(markup.movie(mp4, f"{len(SEEDS)} videos of the trial of {described(each.trial.values)}, playing", caption))
    body = markup.columns(cells, "three") if cells else ""
    if left:
        body += markup.notice(f"{left} more trials are not shown, so that the page stays below 15 MB; generate their videos by their runs.")
    if not trials:
        body = markup.notice("No trial has come to its end yet.")
    return markup.Section("glance", "All trials at a glance", markup.paragraph("Best first, videos of the same seeds.") + body)


def _movies(trials: Sequence[Outcome], room: int) -> Iterator[tuple[Outcome, bytes | None]]:
    """Each trial with its videos, up to the first for which there is no room: `room` bytes for all."""
    for each in trials:
        if room > 0:
            generator = Generator.load(each.uri)
            mp4 = pictures.generated_movie(generator, SEEDS, generator.run.video.num_frames, 2)
            room -= len(mp4)
        yield each, mp4 if room > 0 else None


def _over_training(trials: Sequence[Outcome], outcomes: Sequence[Outcome], failed: Failures) -> markup.Section:
    """A line for each of the `trials`, which are done, and then of the other outcomes that were measured."""
    lines, done = {}, {each.trial.key for each in trials}
    for each in (*trials, *(other for other in outcomes if other.trial.key not in done)):
        records = [record for record in read_metrics(open_store(each.uri), "video") if "frechet" in record]
        if records:
            state = "failed" if each.trial.key in failed else each.status
            name = described(each.trial.values) + ("" if state == "done" else f" ({state})")
            lines[name] = [(record["images"], record["frechet"]) for record in records]
    if not lines:
        return markup.Section("training", "Over training", markup.notice("No trial has been measured yet."))
    chosen = dict(islice(lines.items(), charts.MOST_LINES))
    drawn = charts.curves_chart("Fréchet distance of clips over stage 3", "clips seen", chosen)
    body = markup.columns([markup.chart(drawn, "A line a trial, best first; of one that is not done its name says why it ends.")])
    if len(lines) > len(chosen):
        body += markup.notice(f"{len(lines) - len(chosen)} more trials are not drawn, as they could not be told apart.")
    return markup.Section("training", "Over training", body)


def _settings(folder: SweepFolder) -> markup.Section:
    axes = [(path, "  ".join(shown(value) for value in values)) for path, values in folder.sweep.columns.items()]
    body = markup.table(axes, "settings that vary") + markup.config_tables(to_dict(folder.sweep.base))
    return markup.Section("settings", "Settings", body)
