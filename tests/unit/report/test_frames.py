"""The page of a table of pair generators, read back by Python's HTML parser, and its CSV by csv."""

import csv
import html
import json
import re
import shutil
from pathlib import Path

from mvgan.report.frames import FramesOutcome, build_frames_page, frames_outcome, write_frames
from mvgan.storage.run import RunFolder
from mvgan.sweep import open_sweep
from mvgan.tables import TABLES
from tests.unit.report.test_page import Reader


TABLE = TABLES["table6-faceforensics"]


def rows_of(page: str) -> list[list[str]]:
    return [[html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in re.findall(r"<tr>(<td>.*?)</tr>", page)]


def test_the_lowest_distance_stands_beside_the_published_one(tiny_run: RunFolder, tmp_path: Path) -> None:
    """Of the pairs a finished run; of single frames one that is at work, and then one that was made without the measure."""
    sweep = TABLE.sweep(tiny_run.run, tiny_run.data)
    folder = open_sweep(str(tmp_path / "s"), sweep)
    single, pairs = sweep.trials()
    shutil.copytree(tiny_run.uri, folder.generator_uri(pairs))
    metrics = Path(folder.generator_uri(pairs)) / "pairs" / "metrics.jsonl"
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    lowest = dict(zip((0, 32, 64), (0.5, 2.25, 3.5), strict=True))  # the untrained one does not count
    changed = [
        record | {"frechet_frames": lowest[record["images"]], "frechet_frames_error": 0.125} if "frechet" in record else record
        for record in records
    ]
    metrics.write_text("".join(json.dumps(record) + "\n" for record in changed))
    folder.open_generator(single)
    found = [frames_outcome(folder, trial) for trial in sweep.trials()]
    page = Path(build_frames_page(folder, TABLE, found, {single.key: "no <room>"}, "table6-faceforensics", True)).read_text()
    read = Reader(page)
    assert read.open == [] and "://" not in page.replace("http://www.w3.org", "")
    assert rows_of(page) == [
        ["StyleGAN2", "10.99; 8765", "unfinished"],
        ["MotionStyleGAN", "9.65; 4800", "2.25 ± 0.12; 0.032 kimg"],
        ["case StyleGAN2", "failed: no <room>", f"pairs/{single.pairs_key}"],
        ["case MotionStyleGAN", "done", f"pairs/{pairs.pairs_key}"],
    ]
    words = " ".join(read.words)
    assert "Table VI of the paper" in words and "different quantities" in words and "122 hours of one H200" in words
    assert "does not show which row is better" in words and "--measure pairs" in words
    assert [attributes["alt"] for name, attributes in read.elements if name == "img"] == [
        "Generated pairs, former and latter frame side by side, of case MotionStyleGAN"
    ]
    _, text = write_frames(folder, found, "table6-faceforensics")
    with open(text, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["status"], row["kimg"], row["frechet_frames"]) for row in rows] == [
        ("StyleGAN2", "unfinished", "", ""), ("MotionStyleGAN", "done", "0.032", "2.25"),
    ]  # fmt: skip
    metrics.write_text("".join(json.dumps({k: v for k, v in record.items() if "frames" not in k}) + "\n" for record in records))
    assert frames_outcome(folder, pairs).status == "done, without a measure of its frames"


def test_rows_of_several_seeds_are_their_means(tiny_run: RunFolder, tmp_path: Path) -> None:
    """By hand: 2 and 4 have the mean 3 and the sample deviation 1.414, after 32 and 64 pairs; one of two has no deviation."""
    folder = open_sweep(str(tmp_path / "s"), TABLE.sweep(tiny_run.run, tiny_run.data, {"seed": (0, 1)}))
    bests = [(2.0, 32), (4.0, 64), (5.0, 64), None]
    found = [
        FramesOutcome(
            trial, folder.generator_uri(trial), best is not None, [],
            {"frechet_frames": best[0], "images": best[1], "frechet_frames_error": 0.5} if best else None,
        )
        for trial, best in zip(folder.sweep.trials(), bests, strict=True)
    ]  # fmt: skip
    page = Path(build_frames_page(folder, TABLE, found, {}, "table6-faceforensics", True)).read_text()
    assert [row[2] for row in rows_of(page)[:2]] == ["3 ± 1.4; 0.048 kimg, 2 of 2 seeds", "5; 0.064 kimg, 1 of 2 seeds"]


def test_more_lines_than_can_be_told_apart_are_counted(tiny_run: RunFolder, tmp_path: Path) -> None:
    """13 seeds of two rows are 26 lines, of which 24 are drawn."""
    folder = open_sweep(str(tmp_path / "s"), TABLE.sweep(tiny_run.run, tiny_run.data, {"seed": tuple(range(13))}))
    measured = [{"images": images, "frechet_frames": 1.0} for images in (0, 8)]
    found = [FramesOutcome(trial, folder.generator_uri(trial), False, measured, None) for trial in folder.sweep.trials()]
    page = Path(build_frames_page(folder, TABLE, found, {}, "table6-faceforensics", True)).read_text()
    assert "2 more generators are not drawn" in page
