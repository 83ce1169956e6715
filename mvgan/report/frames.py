"""The page of a table of pair generators: the distance of their single frames, over training, and what they generate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from mvgan.report import charts, markup, pictures
from mvgan.report.combined import of_seeds, over_seeds, with_error
from mvgan.report.tables import paper_section
from mvgan.settings import to_dict
from mvgan.storage.uri import open_store
from mvgan.sweep import CASE, SweepFolder, Trial, described, write_rows
from mvgan.tables import Table
from mvgan.train.export import WEIGHTS
from mvgan.train.hooks import History, read_metrics


@dataclass(frozen=True)
class FramesOutcome:
    """What has become of a pair generator."""

    trial: Trial
    uri: str
    done: bool
    """Whether stage 1 has ended."""
    measured: History
    """The records with a distance of frames."""
    best: Mapping[str, float] | None
    """That of them with the lowest, once stage 1 has ended; the untrained generator is left out, which is no commit."""

    @property
    def status(self) -> str:
        """For people."""
        if not self.done:
            return "unfinished"
        return "done" if self.best else "done, without a measure of its frames"


def frames_outcome(folder: SweepFolder, trial: Trial) -> FramesOutcome:
    """What the run of a pair generator tells of its frames."""
    uri = folder.generator_uri(trial)
    store = open_store(uri)
    measured = [record for record in read_metrics(store, "pairs") if "frechet_frames" in record]
    done = store.exists(f"export/{WEIGHTS['pairs']}")
    trained = [record for record in measured if record["images"]] if done else []
    return FramesOutcome(trial, uri, done, measured, min(trained, key=lambda record: record["frechet_frames"], default=None))


def write_frames(folder: SweepFolder, outcomes: Sequence[FramesOutcome], name: str) -> list[str]:
    """Write `<name>.parquet` and `<name>.csv`, a row a generator; returns where they are."""
    rows = [
        {
            **each.trial.values,
            "status": each.status,
            "kimg": each.best["images"] / 1000 if each.best else None,
            "frechet_frames": each.best["frechet_frames"] if each.best else None,
            "frechet_frames_error": each.best["frechet_frames_error"] if each.best else None,
            "run": each.uri,
        }
        for each in outcomes
    ]
    return write_rows(folder.store, rows, name)


def build_frames_page(
    folder: SweepFolder, table: Table, outcomes: Sequence[FramesOutcome], failed: Mapping[str, str], name: str, tiny: bool
) -> str:
    """Draw everything and write `<name>.html` into the sweep's folder; `failed` says why, by the keys of trials. Returns where it is."""
    sections = [
        paper_section(table, folder, {case.name: _measured(case.name, outcomes) for case in table.cases}, tiny),
        _generated(table, outcomes),
        _over_training(outcomes),
        _runs(folder, outcomes, failed, name),
        markup.Section("settings", "Settings", markup.config_tables(to_dict(folder.sweep.base))),
    ]
    base = folder.sweep.base
    lead = (
        f"{folder.store.uri}: {base.resolution} px, {len(outcomes)} generators, each judged by {base.pairs.eval_pairs:,} pairs or frames."
    )
    folder.store.write(f"{name}.html", markup.document(f"mvgan {name}", lead, sections).encode())
    return f"{folder.store.uri}/{name}.html"


def _measured(case: str, outcomes: Sequence[FramesOutcome]) -> str:
    """What has come of a row: its figures, as means over seeds, or how far it is."""
    row = [each for each in outcomes if each.trial.values[CASE] == case]
    found = [each.best for each in row if each.best is not None]
    if not found:
        return ", ".join(sorted({each.status for each in row}))
    distance = over_seeds([best["frechet_frames"] for best in found], found[0]["frechet_frames_error"] if len(row) == 1 else None)
    kimg, _ = over_seeds([best["images"] / 1000 for best in found], None)
    return f"{with_error(distance)}; {kimg:.4g} kimg{of_seeds(len(found), len(row))}"


def _generated(table: Table, outcomes: Sequence[FramesOutcome]) -> markup.Section:
    cells = []
    for each in outcomes:
        last = pictures.sample_pictures(open_store(each.uri), "pairs", 2)[-1:]
        sides = "pairs, former and latter frame side by side" if each.trial.run.network.frames == 2 else "single frames"
        name = described(each.trial.values)
        cells += [
            markup.image(
                pictures.light(picture.board), f"Generated {sides}, of {name}", f"{name}: {sides}, after {picture.images / 1000:g} kimg."
            )
            for picture in last
        ]
    body = markup.columns(cells) if cells else markup.notice("No generator has drawn anything yet.")
    title = "Generated frames" + (f", as in {table.pictures}" if table.pictures else "")
    return markup.Section("generated", title, body)


def _over_training(outcomes: Sequence[FramesOutcome]) -> markup.Section:
    lines = {
        described(each.trial.values): [(record["images"], record["frechet_frames"]) for record in each.measured]
        for each in outcomes
        if each.measured
    }
    if not lines:
        return markup.Section("training", "Over training", markup.notice("No generator has been measured yet."))
    chosen = dict(islice(lines.items(), charts.MOST_LINES))
    drawn = charts.curves_chart("Fréchet distance of frames over stage 1", "pairs or frames seen", chosen)
    caption = "Of pairs the mean of the distances of former and of latter frames, in seeded features (not FID)."
    body = markup.columns([markup.chart(drawn, caption)])
    if len(lines) > len(chosen):
        body += markup.notice(f"{len(lines) - len(chosen)} more generators are not drawn, as they could not be told apart.")
    return markup.Section("training", "Over training", body)


def _runs(folder: SweepFolder, outcomes: Sequence[FramesOutcome], failed: Mapping[str, str], name: str) -> markup.Section:
    rows = [
        [
            described(each.trial.values),
            f"failed: {failed[each.trial.key]}" if each.trial.key in failed else each.status,
            each.uri.removeprefix(f"{folder.store.uri}/"),
        ]
        for each in outcomes
    ]
    words = f"The figures are in {name}.csv and {name}.parquet too."
    return markup.Section("runs", "All runs", markup.paragraph(words) + markup.grid_table(["", "status", "run"], rows, "generators"))
