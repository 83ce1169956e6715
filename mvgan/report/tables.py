"""The section of a sweep's page that sets a table of the paper beside what was measured."""

from collections.abc import Mapping, Sequence

from mvgan.data.shards import ShardSet
from mvgan.report import markup
from mvgan.report.combined import SEED, combined, of_seeds, with_error
from mvgan.report.pictures import light
from mvgan.sample import Generator
from mvgan.sweep import CASE, Outcome, SweepFolder, described
from mvgan.tables import DATASETS, S_PER_KIMG, Table
from mvgan.train.pictures import tiled


SEEDS = range(4)
"""Of the videos shown as rows of frames."""

HERE = {
    "video": "Fréchet distance, seeded features",
    "pairs": "lowest Fréchet distance of frames, seeded features; kimg",
}
"""What is measured here, by the stage that a table ends with."""

PUBLISHED = {
    "video": "FVD of a trial: `python -m jobs.evaluate --run` with its folder",
    "pairs": "FID of a generator: `python -m jobs.evaluate --measure pairs --commit all --run` with its folder",
}
"""How the published quantity is taken of a row."""

UNMEASURED = {"video": "stages 2 and 3 were not measured on a GPU", "pairs": "single frames were not measured, and count as pairs"}


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


def paper_section(table: Table, folder: SweepFolder, measured: Mapping[str, str], tiny: bool) -> markup.Section:
    """Published figures, those measured here by their cases, and what a comparison of them can tell."""
    body = markup.paragraph(f"{table.source} of the paper: {table.title}. It is there to show {table.shows[0].lower()}{table.shows[1:]}")
    rows = [[case.name, table.published[case.name], measured.get(case.name, "unfinished")] for case in table.cases]
    rows += [[f"{name}, quoted", figure, ""] for name, figure in table.quoted]
    body += markup.grid_table(["", f"paper: {table.figure}", f"here: {HERE[table.last]}"], rows, "published and measured")
    body += "".join(markup.notice(words) for words in _cautions(table.last, tiny, len(folder.sweep.columns.get(SEED, (0,)))))
    hours = table.gpu_hours(folder.sweep.data)
    about = [
        ("data of the paper", f"{table.dataset.name}: {table.dataset.num_videos:,} videos"),
        ("data here", folder.sweep.data),
        ("cost at the paper's scale", f"{hours:.0f} hours of one H200 for stage 1, at {S_PER_KIMG} s a thousand pairs (measured); "
         f"{UNMEASURED[table.last]}"),
    ]  # fmt: skip
    return markup.Section("paper", "The paper's figures and ours", body + markup.table(about, "data and cost"))


def measured_videos(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """What has come of the cases of a table: the distance of those that are done, as the mean over seeds, or how far they are."""
    found = {}
    for row in combined(outcomes):
        states = {each.status for each in outcomes if each.trial.values[CASE] == row.values[CASE]}
        figure = f"{with_error(row.figure('frechet'))}{of_seeds(len(row.outcomes), row.seeds)}"
        found[row.values[CASE]] = figure if row.outcomes else ", ".join(sorted(states))
    return found


def pictures_section(table: Table, outcomes: Sequence[Outcome]) -> markup.Section:
    """What the rows of a table that are done generate, as the paper's figures show it: all frames of a clip side by side, a row a video."""
    rows = []
    for each in outcomes:
        if each.status == "done":
            generator, name = Generator.load(each.uri), described(each.trial.values)
            frames = generator.run.video.num_frames
            videos = generator.sample(SEEDS, frames)
            words = f"{len(SEEDS)} videos of {name}, a row each, {frames} frames from left to right"
            rows.append(markup.image(light(tiled(videos.reshape(-1, *videos.shape[2:]), frames)), words, f"{words}."))
    body = markup.paragraph(f"A video a row, as in {table.pictures} of the paper. The same seeds in all pictures, none chosen.")
    return markup.Section("pictures", table.pictures, body + ("".join(rows) or markup.notice("No row has come to its end yet.")))


def _cautions(last: str, tiny: bool, seeds: int) -> list[str]:
    words = [
        f"The two columns are different quantities: ours is taken in seeded features. {PUBLISHED[last]} and `--features`.",
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
