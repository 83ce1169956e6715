"""The page of a sweep, read back by Python's HTML parser."""

import base64
import dataclasses
import re
import shutil
from pathlib import Path

import pytest

from mvgan.report import sweep as page
from mvgan.storage.run import RunFolder
from mvgan.sweep import Outcome, Sweep, SweepFolder, open_sweep, outcome
from tests.unit.report.test_page import Reader


@pytest.fixture
def swept(tiny_run: RunFolder, tmp_path: Path) -> tuple[SweepFolder, list[Outcome]]:
    """Intervals by numbers of codes, of which each trial but the last is the same finished run, with figures of its own."""
    axes = {"interval": ((4,), (2, 3)), "num_codes": (2, 1)}
    folder = open_sweep(str(tmp_path / "sweep"), Sweep(tiny_run.run, axes, tiny_run.data))
    found = []
    for number, trial in enumerate(folder.sweep.trials()):
        if number < 3:
            shutil.copytree(tiny_run.uri, folder.trial_uri(trial))
        found.append(
            dataclasses.replace(outcome(folder, trial), **({"frechet": 7.5 - number, "frechet_error": 0.25} if number < 3 else {}))
        )
    return folder, found


def charts_of(html: str) -> list[str]:
    return re.findall(r'<svg [^>]*aria-label="([^"]*)"', html)


def test_it_tells_what_was_found(swept: tuple[SweepFolder, list[Outcome]]) -> None:
    folder, outcomes = swept
    html = page.render_sweep(folder, outcomes, {})
    read = Reader(html)
    assert read.open == [] and "://" not in html.replace("http://www.w3.org", "")
    title = "Fréchet distance of clips (lower is better)"
    points = "num_codes 2: 7.5 at 4, 5.5 at 2,3; num_codes 1: 6.5 at 4"
    assert charts_of(html)[0] == f"Line chart of {title} against interval: {points}"
    words = " ".join(read.words)
    assert "interval 2,3, num_codes 2: Fréchet distance 5.5 ± 0.25." in words and "Within the errors" not in words
    videos = [attributes["src"] or "" for name, attributes in read.elements if name == "video"]
    assert len(videos) == 2 + 3 and all(base64.b64decode(video.partition(",")[2])[4:8] == b"ftyp" for video in videos)
    rows = [re.findall(r"<td>(.*?)</td>", row)[:5] for row in re.findall(r"<tr>(<td>.*?)</tr>", html)]
    assert rows == [
        ["4", "2", "done", "16", "7.5 ± 0.25"],
        ["4", "1", "done", "16", "6.5 ± 0.25"],
        ["2,3", "2", "done", "16", "5.5 ± 0.25"],
        ["2,3", "1", "unfinished", "0", ""],
    ]


def test_trials_that_errors_do_not_tell_apart_are_said_so(swept: tuple[SweepFolder, list[Outcome]]) -> None:
    folder, outcomes = swept
    near = [dataclasses.replace(each, frechet_error=0.6) if each.frechet else each for each in outcomes]
    assert "Within the errors of it: interval 4, num_codes 1." in page.render_sweep(folder, near, {})


def test_seeds_are_averaged(swept: tuple[SweepFolder, list[Outcome]], tiny_run: RunFolder) -> None:
    """Mean and sample deviation of 7.5 and 6.5, by hand: 7 and 0.7071."""
    folder, outcomes = swept
    sweep = dataclasses.replace(folder.sweep, axes={"num_codes": (2,), "seed": (0, 1)})
    trials = sweep.trials()
    found = [dataclasses.replace(each, trial=trial) for each, trial in zip(outcomes, trials, strict=False)]
    lines = page._lines(dataclasses.replace(folder, sweep=sweep), found, "num_codes", "frechet")
    assert lines == {"": {"2": (7.0, pytest.approx(0.5**0.5))}}
    lines = page._lines(dataclasses.replace(folder, sweep=sweep), found[:1], "num_codes", "frechet")
    assert lines == {"": {"2": (7.5, 0.0)}}  # of one seed there is no deviation, and its bootstrap error is another quantity


def test_nothing_done_and_failures_are_said(swept: tuple[SweepFolder, list[Outcome]]) -> None:
    folder, outcomes = swept
    nothing = [dataclasses.replace(each, status="unfinished", frechet=None) for each in outcomes]
    html = page.render_sweep(folder, nothing, {outcomes[1].trial.key: "no <room>"})
    assert html.count("No trial has come to its end yet.") == 3 and "failed: no &lt;room&gt;" in html and "<video" not in html


def test_videos_stop_where_the_page_would_grow_too_large(swept: tuple[SweepFolder, list[Outcome]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, outcomes = swept
    monkeypatch.setattr(page, "MOST_BYTES", 1)
    html = page.render_sweep(folder, outcomes, {})
    assert "2 more trials are not shown" in html and html.count("<video") == 3
    assert page.build_sweep_page(folder, outcomes, {}) == f"{folder.store.uri}/sweep.html"
    assert folder.store.read("sweep.html").decode() == html
