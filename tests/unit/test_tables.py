"""The paper's tables: every row is a run that can be, and figures are those of the paper."""

import base64
import dataclasses
import html
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load

from jobs import reproduce
from mvgan.config import Run
from mvgan.data.shards import ShardSet
from mvgan.data.windows import Item, decode_window
from mvgan.presets import preset
from mvgan.report.pictures import code_pictures, light
from mvgan.report.tables import dataset_section, measured_videos, paper_section, pictures_sections
from mvgan.sample import Generator
from mvgan.storage.run import RunFolder
from mvgan.sweep import Outcome, distinct_generators, open_sweep, outcome, with_values
from mvgan.tables import TABLES
from tests.unit.report.test_explorer import decoded


GENERATORS = {"table5": 4, "mixed-k": 2} | {name: 2 for name in TABLES if name.startswith(("table1", "table6"))}
"""Pair generators of those tables that need more than one."""


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("tiny", [False, True])
def test_every_row_is_a_trial(name: str, tiny: bool) -> None:
    table = TABLES[name]
    trials = table.sweep(preset("tiny" if tiny else table.dataset.preset), "/data").trials()
    assert [trial.values["case"] for trial in trials] == [case.name for case in table.cases] == list(table.published)
    assert len(distinct_generators(trials)) == GENERATORS.get(name, 1)


def test_rows_are_what_the_paper_varies() -> None:
    def rows(name: str) -> dict[str, Run]:
        return {trial.values["case"]: trial.run for trial in TABLES[name].sweep(preset("tiny"), "/data").trials()}

    assert [run.interval for run in rows("table5").values()] == [(2,), (3,), (4,), (5,)]
    assert rows("mixed-k")["k = 2, 3, 4"].interval == (2, 3, 4)
    assert rows("random-codes")["random codes"].codes.method == "random"
    switches = {case: (run.video.d_v, run.video.d_r, run.video.d_i) for case, run in rows("table4").items()}
    assert switches == {
        "TVD": (True, False, False), "BVD": (False, True, False), "BVD+TVD+ID": (True, True, True), "BVD+TVD (ours)": (True, True, False),
    }  # fmt: skip


def test_hours_are_those_of_the_rate_that_was_measured() -> None:
    """Four generators of 25,000 kimg at 8.8 s: by hand 244 hours."""
    assert TABLES["table5"].gpu_hours("/data") == pytest.approx(4 * 25000 * 8.8 / 3600)
    assert TABLES["table4"].gpu_hours("/data") == pytest.approx(25000 * 8.8 / 3600)
    assert TABLES["table1-ucf101"].gpu_hours("/data") == pytest.approx(2 * 25000 * 8.8 / 3600)


def test_table_7_has_these_videos_beside_the_papers(tiny_run: RunFolder) -> None:
    """Lengths as their videos have them, by numpy."""
    shards = ShardSet.open(tiny_run.data)
    body = dataset_section(shards).body
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", body)]
    assert [row[1:] for row in rows[:3]] == [
        ["13,320", "1,776", "186.50", "9,556.995"],
        ["704", "1,957", "517.07", "46,867.212"],
        ["2,376", "266,309", "493.01", "30,794,675.650"],
    ]  # fmt: skip
    lengths = np.array(shards.lengths)
    assert rows[3][1:] == [str(len(lengths)), str(lengths.max()), f"{lengths.mean():.2f}", f"{lengths.var():,.3f}"]


def test_published_figures_stand_beside_measured_ones(tiny_run: RunFolder, tmp_path: Path) -> None:
    table = TABLES["table5"]
    folder = open_sweep(str(tmp_path / "s"), table.sweep(tiny_run.run, tiny_run.data))
    trials = folder.sweep.trials()
    shutil.copytree(tiny_run.uri, folder.trial_uri(trials[1]))
    outcomes = [outcome(folder, trial) for trial in trials]
    body = paper_section(table, folder, measured_videos(outcomes), tiny=True).body
    rows = [[html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in re.findall(r"<tr>(<td>.*?)</tr>", body)]
    measured = f"{outcomes[1].frechet:.4g} ± {outcomes[1].frechet_error:.2g}"
    assert rows[:4] == [
        ["k = 2", "190.5", "unfinished"], ["k = 3", "134.6", measured], ["k = 4", "108.8", "unfinished"], ["k = 5", "160.3", "unfinished"],
    ]  # fmt: skip
    # What is measured midway is no result of a row.
    midway = [dataclasses.replace(each, status="stopped") for each in outcomes]
    assert measured not in paper_section(table, folder, measured_videos(midway), tiny=True).body
    assert "different quantities" in body and "does not show which row is better" in body and "244 hours of one H200" in body
    quoted = paper_section(TABLES["table3-faceforensics"], folder, {}, tiny=False).body
    assert "StyleGAN-V (CVPR 2022), quoted" in quoted and "does not show which row is better" not in quoted


def test_rows_of_several_seeds_are_their_means(tiny_run: RunFolder, tmp_path: Path) -> None:
    """By hand: 2 and 4 have the mean 3 and the sample deviation 1.414; where one of two has ended, it stands alone, without a deviation."""
    table = TABLES["table5"]
    folder = open_sweep(str(tmp_path / "s"), table.sweep(tiny_run.run, tiny_run.data, {"seed": (0, 1)}))
    given = [("done", 2.0), ("done", 4.0), ("done", 5.0), ("stopped", 1.0), ("stopped", 1.0), ("unfinished", None)]
    outcomes = [Outcome(trial, "", status, 8, frechet, 0.5) for trial, (status, frechet) in zip(folder.sweep.trials(), given, strict=False)]
    body = paper_section(table, folder, measured_videos(outcomes), tiny=True).body
    rows = [[html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in re.findall(r"<tr>(<td>.*?)</tr>", body)]
    assert [row[2] for row in rows[:4]] == ["3 ± 1.4, 2 of 2 seeds", "5, 1 of 2 seeds", "stopped, unfinished", "unfinished"]
    assert "standard deviations over them" in body and "bootstrap" not in body


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "name a table of the paper first: table1-ucf101, table1-faceforensics"),
        ("table9", "name a table of the paper"),
        ("table5 --preset demo", "--preset follows from the table and --scale"),
        ("table5", "preset faceforensics needs videos"),
        ("table7", "preset ucf101 needs videos"),
        ("table5 --scale small", "--scale"),
        ("table5 --scale tiny --scale full", "--scale is given twice"),
        ("--name table2 table4", "name a table of the paper first"),
        ("table5 --scale tiny --videos /nowhere", "/nowhere"),
        ("table5 --scale tiny --interval 2 3", "interval is given several values; a table takes several of --seed alone"),
        ("table7 --scale tiny --seed 1 2", "table7 trains nothing, so no seed changes it"),
        ("table7 --scale tiny --resolution 33", "resolution 33 is no power of two"),
        ("table5 --scale tiny --halving 1", "--halving is 1"),
        ("table5 --scale tiny --interval 3", "interval is what the rows of table5 set; leave --interval away"),
        ("table1-ucf101 --scale tiny --network.frames 1", "network.frames is what the rows of table1-ucf101 set"),
        ("table4 --scale tiny --video.d-i", "video.d_i is what the rows of table4 set; leave --video.d-i away"),
        ("table1-ucf101 --scale tiny --halving 2", "--halving 2 stops trials of stage 3 early"),
        ("table6-ucf101 --scale tiny --pairs.evaluations 0", "set pairs.evaluations to at least 1"),
    ],
)
def test_mistakes_are_one_line(
    flags: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduce", *flags.split(), "--storage", f"{tmp_path}/s"])
    with pytest.raises(SystemExit) as stop:
        reproduce.cli()
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and said.err.count("\n") == 1 and message in said.err
    assert not list(tmp_path.iterdir())


def test_dry_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduce", "table4", "--scale=tiny", "--storage", str(tmp_path), "--dry-run"])
    reproduce.cli()
    said = capsys.readouterr().out
    assert "sweep: 1 pair generators and 4 trials, to " in said and said.endswith("/sweep-tiny/table4.html\n")
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--seed", "0", "1", "2"])
    reproduce.cli()
    said = capsys.readouterr().out
    assert "trial of case TVD, seed 2: " in said and "sweep: 3 pair generators and 12 trials, to " in said
    monkeypatch.setattr(sys, "argv", ["reproduce", "table1-ucf101", "--scale=tiny", "--storage", str(tmp_path), "--dry-run"])
    reproduce.cli()
    assert capsys.readouterr().out.splitlines() == [
        "pair generator of network.frames 1: 10,000 pairs",
        "pair generator of network.frames 2: 10,000 pairs",
        f"sweep: 2 pair generators, to {tmp_path}/sweep-tiny/table1-ucf101.html",
    ]
    monkeypatch.setattr(sys, "argv", ["reproduce", "table7", "--storage", str(tmp_path), "--dry-run"])
    reproduce.cli()
    assert capsys.readouterr().out.endswith("/sweep-ucf101/table7.html\n") and not list(tmp_path.iterdir())


def test_all_tables_of_one_preset_share_a_folder(tmp_path: Path) -> None:
    """None is refused where another one is, so that they share generators and trials."""
    for table in TABLES.values():
        open_sweep(str(tmp_path / "s"), table.sweep(preset("tiny"), "/data"))


def test_flags_do_not_void_a_row() -> None:
    random = with_values(preset("tiny"), {"codes.method": "random"})
    trials = TABLES["random-codes"].sweep(random, "/data").trials()
    assert [trial.run.codes.method for trial in trials] == ["generalized", "random"]


def test_tables_1_and_6_are_the_same_rows() -> None:
    """Their generators of pairs are those of the tables of videos; the published figures as the paper prints them, row by row."""
    for dataset in ("ucf101", "faceforensics", "skytimelapse"):
        one, six = (TABLES[f"{name}-{dataset}"] for name in ("table1", "table6"))
        assert one.cases == six.cases and one.dataset == six.dataset and one.dataset.preset == dataset
        for case, figure in six.published.items():
            assert figure.split("; ")[0] == one.published[case]
    single, pairs = TABLES["table6-faceforensics"].sweep(preset("tiny"), "/data").trials()
    assert (single.run.network.frames, pairs.run.network.frames) == (1, 2)
    assert pairs.pairs_key == TABLES["table4"].sweep(preset("tiny"), "/data").trials()[0].pairs_key
    printed = [TABLES[f"table6-{dataset}"].published.values() for dataset in ("ucf101", "faceforensics", "skytimelapse")]
    assert [" ".join(row).replace(";", "") for row in zip(*printed, strict=True)] == [
        "45.63 6935 10.99 8765 10.80 12633",
        "37.70 7680 9.65 4800 10.48 8600",
    ]


def test_pictures_are_rows_of_frames_of_what_is_done(tiny_run: RunFolder, tmp_path: Path) -> None:
    """Decoded again, against the videos of the same seeds, put together here; of each table the figures that the paper has of it."""
    assert {name: table.pictures for name, table in TABLES.items() if table.pictures} == {
        "table1-faceforensics": "Figure 5", "table1-skytimelapse": "Figure 6", "table2": "Figures 8 and 17",
        "table3-faceforensics": "Figures 9 and 18", "table3-skytimelapse": "Figures 10 and 19", "random-codes": "Figure 12",
        "mixed-k": "Figure 13",
    }  # fmt: skip
    table = TABLES["mixed-k"]
    folder = open_sweep(str(tmp_path / "s"), table.sweep(tiny_run.run, tiny_run.data))
    trials = folder.sweep.trials()
    assert "No row has come to its end yet." in pictures_sections(table, [outcome(folder, trial) for trial in trials])[0].body
    shutil.copytree(tiny_run.uri, folder.trial_uri(trials[1]))
    (section,) = pictures_sections(table, [outcome(folder, trial) for trial in trials])
    (source,), (alt,) = (re.findall(f'<img [^>]*{name}="([^"]*)"', section.body) for name in ("src", "alt"))
    assert section.title == "Figure 13" and alt == "4 videos of case k = 2, 3, 4, a row each, 4 frames from left to right"
    picture = decoded(base64.b64decode(source.partition(",")[2]))
    videos = Generator.load(tiny_run.uri).sample(range(4), 4)
    expected = videos.transpose(2, 0, 3, 1, 4).repeat(4, 2).repeat(4, 4).reshape(3, 4 * 64, 4 * 64)
    assert picture.shape == expected.shape
    assert np.abs(picture.astype(float) - expected).mean() < 8  # JPEG


def test_long_videos_and_edits_are_shown_where_the_paper_has_them(tiny_run: RunFolder, tmp_path: Path) -> None:
    """Decoded again, against frames 1, 9, ..., 121 of the videos of the same seeds, and the pictures of the run's own page."""
    assert [(table.long_pictures, table.edits) for table in TABLES.values() if table.long_pictures or table.edits] == [
        ("Figure 11", "Figure 7")
    ]
    table = TABLES["table3-faceforensics"]
    folder = open_sweep(str(tmp_path / "s"), table.sweep(tiny_run.run, tiny_run.data))
    (trial,) = folder.sweep.trials()
    shutil.copytree(tiny_run.uri, folder.trial_uri(trial))
    clips, long, edits = pictures_sections(table, [outcome(folder, trial)])
    assert [section.title for section in (clips, long, edits)] == ["Figures 9 and 18", "Figure 11", "Figure 7"]
    videos = Generator.load(tiny_run.uri).sample(range(4), 128)[:, 0:128:8]
    assert videos.shape[1] == 16
    (shown,) = shown_in(long.body)
    expected = videos.transpose(2, 0, 3, 1, 4).repeat(4, 2).repeat(4, 4).reshape(3, 4 * 64, 16 * 64)
    assert shown.shape == expected.shape and np.abs(shown.astype(float) - expected).mean() < 8  # JPEG
    drawn, _ = code_pictures(tiny_run, load(tiny_run.store.read("export/codes.safetensors")))
    boards = [light(each.board) for each in drawn if each.number == 1]
    assert [base64.b64decode(source.partition(",")[2]) for source in re.findall('<img [^>]*src="([^"]*)"', edits.body)] == boards
    assert len(boards) == 2


def test_table_7_shows_videos_that_chance_has_picked(tiny_run: RunFolder) -> None:
    """Decoded again: each row is the beginning of another one of these videos, all of which are decoded here."""
    shards = ShardSet.open(tiny_run.data)
    (shown,) = shown_in(dataset_section(shards).body)
    rows = shown.reshape(3, 4, 64, 16, 64).transpose(1, 3, 0, 2, 4)
    items = [Item(video, tuple(range(16)), mirror=False) for video in range(len(shards))]
    beginnings = decode_window(shards, items).repeat(4, 3).repeat(4, 4)
    nearest = [min(range(len(shards)), key=lambda video, row=row: np.abs(row.astype(float) - beginnings[video]).mean()) for row in rows]  # type: ignore[misc]
    assert len(set(nearest)) == 4
    assert all(np.abs(row.astype(float) - beginnings[video]).mean() < 8 for row, video in zip(rows, nearest, strict=True))


def shown_in(body: str) -> list[np.ndarray]:
    """The pictures of a section, uint8 [3, h, w]."""
    return [decoded(base64.b64decode(source.partition(",")[2])) for source in re.findall('<img [^>]*src="([^"]*)"', body)]
