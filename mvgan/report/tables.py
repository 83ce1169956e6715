"""The section of a sweep's page that sets a table of the paper beside what was measured."""

from collections.abc import Sequence

from mvgan.data.shards import ShardSet
from mvgan.report import markup
from mvgan.report.combined import SEED, Combination, combined, with_error
from mvgan.sweep import CASE, Outcome, SweepFolder
from mvgan.tables import DATASETS, S_PER_KIMG, Table


def dataset_section(shards: ShardSet) -> markup.Section:
    """Table VII: numbers and lengths of the paper's videos, and of these."""
    rows = [[each.name, *_lengths(each.num_videos, each.max_length, each.mean_length, each.variance)] for each in DATASETS]
    found = shards.manifest["lengths"]
    rows.append([f"here: {shards.uri}", *_lengths(len(shards), found["max"], found["mean"], found["variance"])])
    heads = ["", "videos", "longest, frames", "mean length", "variance of the length"]
    body = markup.paragraph("Table VII of the paper, and the same of these videos.") + markup.grid_table(heads, rows, "videos")
    return markup.Section("paper", "The paper's figures and ours", body)


def _lengths(count: int, longest: int, mean: float, variance: float) -> list[str]:
    return [f"{count:,}", f"{longest:,}", f"{mean:.2f}", f"{variance:,.3f}"]


def paper_section(table: Table, folder: SweepFolder, outcomes: Sequence[Outcome], tiny: bool) -> markup.Section:
    """Published figures, those measured here, and what a comparison of them can tell."""
    body = markup.paragraph(f"{table.source} of the paper: {table.title}. It is there to show {table.shows[0].lower()}{table.shows[1:]}")
    body += markup.grid_table(
        ["", f"paper: {table.figure}", "here: Fréchet distance, seeded features"], _rows(table, outcomes), "published and measured"
    )
    body += "".join(markup.notice(words) for words in _cautions(tiny, len(folder.sweep.columns.get(SEED, (0,)))))
    hours = table.gpu_hours(folder.sweep.data)
    about = [
        ("data of the paper", f"{table.dataset.name}: {table.dataset.num_videos:,} videos"),
        ("data here", folder.sweep.data),
        ("cost at the paper's scale", f"{hours:.0f} hours of one H200 for stage 1, at {S_PER_KIMG} s a thousand pairs (measured); "
         "stages 2 and 3 were not measured on a GPU"),
    ]  # fmt: skip
    return markup.Section("paper", "The paper's figures and ours", body + markup.table(about, "data and cost"))


def _rows(table: Table, outcomes: Sequence[Outcome]) -> list[list[str]]:
    found = {each.values[CASE]: each for each in combined(outcomes)}
    rows = []
    for case in table.cases:
        states = {each.status for each in outcomes if each.trial.values[CASE] == case.name}
        measured = _measured(found[case.name]) if "done" in states else ", ".join(sorted(states)) or "unfinished"
        rows.append([case.name, table.published[case.name], measured])
    return rows + [[f"{name}, quoted", figure, ""] for name, figure in table.quoted]


def _measured(row: Combination) -> str:
    seeds = f", {len(row.outcomes)} of {row.seeds} seeds" if row.seeds > 1 else ""
    return f"{with_error(row.figure('frechet'))}{seeds}"


def _cautions(tiny: bool, seeds: int) -> list[str]:
    words = [
        "The two columns are different quantities: ours is taken in seeded features. FVD of a trial: `python -m jobs.evaluate --run` "
        "with its folder and `--features`.",
        "The errors are those of the measure, by bootstrap. How much another seed changes is not in them, and each row has one."
        if seeds == 1
        else "Each row is the mean over seeds, each of which trains a generator of its own; the errors are standard deviations over them.",
    ]
    if tiny:
        words.append(
            "At this scale the table shows that every row trains and is measured alike. It does not show which row is better in the "
            "paper's sense: other data, smaller frames, minutes of training. Differences within the errors are none."
        )
    return words
