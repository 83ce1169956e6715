"""The section of a sweep's page that sets a table of the paper beside what was measured."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mvgan.data.shards import ShardSet
from mvgan.data.windows import Item, decode_window
from mvgan.motion.factorize import DIRECTIONS
from mvgan.report import markup, pictures
from mvgan.report.combined import SEED, combined, of_seeds, with_error
from mvgan.sample import Generator
from mvgan.storage.run import read_run
from mvgan.sweep import CASE, Outcome, SweepFolder, described
from mvgan.tables import DATASETS, S_PER_KIMG, Table
from mvgan.train.export import read_tensors
from mvgan.train.pictures import tiled


SEEDS = range(4)
"""Of the videos shown as rows of frames."""

EXAMPLE_FRAMES = 16
"""Of each of the real videos shown, as in the paper."""

LONG_FRAMES, LONG_EVERY = 128, 8
"""Length of the long videos shown, and which of their frames, as in the paper."""

LONG_WORDS = (
    f"Videos of {LONG_FRAMES} frames, each {LONG_EVERY}th of them. The paper's upper rows are of training with original videos (here "
    "`--stride 1`), its lower rows with subsampled ones (a larger `--stride`, under another --name)."
)

Draw = Callable[[str, str], str]
"""Draws what the run at a URI makes, which has this name, as HTML."""

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
    return markup.Section("paper", "The paper's figures and ours", body + _examples(shards))


def _examples(shards: ShardSet) -> str:
    """Figures 14 to 16: the beginnings of videos that chance has picked, a row each."""
    videos = np.flatnonzero(np.array(shards.lengths) >= EXAMPLE_FRAMES)
    if not len(videos):
        return markup.notice(f"No video has the {EXAMPLE_FRAMES} frames of the paper's Figures 14 to 16.")
    picked = np.random.default_rng(0).permutation(videos)[: len(SEEDS)]
    clips = decode_window(shards, [Item(int(video), tuple(range(EXAMPLE_FRAMES)), mirror=False) for video in picked])
    words = f"{len(picked)} of these videos, picked by chance, a row each, their first {EXAMPLE_FRAMES} frames from left to right"
    return markup.paragraph("As in Figures 14 to 16 of the paper.") + _rows(clips, words)


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


def pictures_sections(table: Table, outcomes: Sequence[Outcome]) -> list[markup.Section]:
    """What the rows of a table that are done generate, as the paper's figures show it."""
    uris = {each.uri: described(each.trial.values) for each in outcomes if each.status == "done"}
    kinds: tuple[tuple[str, str, Draw, str], ...] = (
        ("pictures", table.pictures, _clips, "A video a row. The same seeds in all pictures, none chosen."),
        ("long", table.long_pictures, _long, LONG_WORDS),
        (
            "edits",
            table.edits,
            _edits,
            f"The first code of each direction; in each picture {', '.join(pictures.CODE_COLUMNS)}, a latent a row.",
        ),
    )
    found = []
    for key, figure, draw, words in kinds:
        if figure:
            drawn = "".join(draw(uri, name) for uri, name in uris.items())
            body = markup.paragraph(f"As in {figure} of the paper. {words}") + (drawn or markup.notice("No row has come to its end yet."))
            found.append(markup.Section(key, figure, body))
    return found


def _clips(uri: str, name: str) -> str:
    """All frames of a clip side by side, a row a video."""
    generator = Generator.load(uri)
    frames = generator.run.video.num_frames
    words = f"{len(SEEDS)} videos of {name}, a row each, {frames} frames from left to right"
    return _rows(generator.sample(SEEDS, frames), words)


def _long(uri: str, name: str) -> str:
    """Every LONG_EVERY-th frame of a long video, a row a video."""
    videos = Generator.load(uri).sample(SEEDS, LONG_FRAMES)[:, ::LONG_EVERY]
    return _rows(
        videos, f"{len(SEEDS)} videos of {name}, a row each, frames 1, {1 + LONG_EVERY} and so on of {LONG_FRAMES} from left to right"
    )


def _edits(uri: str, name: str) -> str:
    """The first code of each direction at work."""
    folder = read_run(uri)
    codes = read_tensors(folder.store, "codes.safetensors", *DIRECTIONS)
    drawn, troubles = pictures.code_pictures(folder, {direction: found[:1] for direction, found in codes.items()})
    shown = [
        markup.image(pictures.light(each.board), f"{each.direction} code of {name}", f"{each.direction} code of {name}.") for each in drawn
    ]
    return "".join(map(markup.notice, troubles)) + markup.columns(shown)


def _rows(videos: np.ndarray, words: str) -> str:
    """Videos uint8 [n, t, 3, h, w], a row each."""
    return markup.image(pictures.light(tiled(videos.reshape(-1, *videos.shape[2:]), videos.shape[1])), words, f"{words}.")


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
