"""The paper's tables: every row is a run that can be, and figures are those of the paper."""

import dataclasses
import html
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs import reproduce
from mvgan.config import Run
from mvgan.data.shards import ShardSet
from mvgan.presets import preset
from mvgan.report.tables import dataset_section, paper_section
from mvgan.storage.run import RunFolder
from mvgan.sweep import Outcome, Sweep, distinct_generators, open_sweep, outcome, with_values
from mvgan.tables import TABLES


GENERATORS = {"table5": 4, "mixed-k": 2}
"""Pair generators of those tables that need more than one."""


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("tiny", [False, True])
def test_every_row_is_a_trial(name: str, tiny: bool) -> None:
    table = TABLES[name]
    trials = Sweep(preset("tiny" if tiny else table.dataset.preset), {}, "/data", table.cases).trials()
    assert [trial.values["case"] for trial in trials] == [case.name for case in table.cases] == list(table.published)
    assert len(distinct_generators(trials)) == GENERATORS.get(name, 1)


def test_rows_are_what_the_paper_varies() -> None:
    def rows(name: str) -> dict[str, Run]:
        return {trial.values["case"]: trial.run for trial in Sweep(preset("tiny"), {}, "/data", TABLES[name].cases).trials()}

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
    folder = open_sweep(str(tmp_path / "s"), Sweep(tiny_run.run, {}, tiny_run.data, table.cases))
    trials = folder.sweep.trials()
    shutil.copytree(tiny_run.uri, folder.trial_uri(trials[1]))
    outcomes = [outcome(folder, trial) for trial in trials]
    body = paper_section(table, folder, outcomes, tiny=True).body
    rows = [[html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in re.findall(r"<tr>(<td>.*?)</tr>", body)]
    measured = f"{outcomes[1].frechet:.4g} ± {outcomes[1].frechet_error:.2g}"
    assert rows[:4] == [
        ["k = 2", "190.5", "unfinished"], ["k = 3", "134.6", measured], ["k = 4", "108.8", "unfinished"], ["k = 5", "160.3", "unfinished"],
    ]  # fmt: skip
    # What is measured midway is no result of a row.
    midway = [dataclasses.replace(each, status="stopped") for each in outcomes]
    assert measured not in paper_section(table, folder, midway, tiny=True).body
    assert "different quantities" in body and "does not show which row is better" in body and "244 hours of one H200" in body
    quoted = paper_section(TABLES["table3-faceforensics"], folder, [], tiny=False).body
    assert "StyleGAN-V (CVPR 2022), quoted" in quoted and "does not show which row is better" not in quoted


def test_rows_of_several_seeds_are_their_means(tiny_run: RunFolder, tmp_path: Path) -> None:
    """By hand: 2 and 4 have the mean 3 and the sample deviation 1.414; where one of two has ended, it stands alone, without a deviation."""
    table = TABLES["table5"]
    folder = open_sweep(str(tmp_path / "s"), Sweep(tiny_run.run, {"seed": (0, 1)}, tiny_run.data, table.cases))
    given = [("done", 2.0), ("done", 4.0), ("done", 5.0), ("stopped", 1.0), ("stopped", 1.0), ("unfinished", None)]
    outcomes = [Outcome(trial, "", status, 8, frechet, 0.5) for trial, (status, frechet) in zip(folder.sweep.trials(), given, strict=False)]
    body = paper_section(table, folder, outcomes, tiny=True).body
    rows = [[html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in re.findall(r"<tr>(<td>.*?)</tr>", body)]
    assert [row[2] for row in rows[:4]] == ["3 ± 1.4, 2 of 2 seeds", "5, 1 of 2 seeds", "stopped, unfinished", "unfinished"]
    assert "standard deviations over them" in body and "bootstrap" not in body


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "name a table of the paper first: table2, table3-faceforensics"),
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
    monkeypatch.setattr(sys, "argv", ["reproduce", "table7", "--storage", str(tmp_path), "--dry-run"])
    reproduce.cli()
    assert capsys.readouterr().out.endswith("/sweep-ucf101/table7.html\n") and not list(tmp_path.iterdir())


def test_all_tables_of_one_preset_share_a_folder(tmp_path: Path) -> None:
    """None is refused where another one is, so that they share generators and trials."""
    for table in TABLES.values():
        open_sweep(str(tmp_path / "s"), Sweep(preset("tiny"), {}, "/data", table.cases))


def test_flags_do_not_void_a_row() -> None:
    random = with_values(preset("tiny"), {"codes.method": "random"})
    trials = Sweep(random, {}, "/data", TABLES["random-codes"].cases).trials()
    assert [trial.run.codes.method for trial in trials] == ["generalized", "random"]
