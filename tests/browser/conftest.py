"""Real Chromium, Debian's, and the pages of a tiny finished run for it to open."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvgan.data.shards import ShardSet
from mvgan.data.survey import survey
from mvgan.report import build_report
from mvgan.report.dataset import dataset_html
from mvgan.report.frames import build_frames_page, frames_outcome
from mvgan.report.sweep import build_sweep_page
from mvgan.report.tables import measured_videos, paper_section
from mvgan.storage.run import RunFolder, read_run
from mvgan.sweep import Sweep, open_sweep, outcome
from mvgan.tables import TABLES
from tests.browser.browser import Browser
from tests.unit.conftest import tiny_run


__all__ = ["tiny_run"]  # a fixture


PROGRAMS = ("chromium", "chromedriver")
"""Debian's packages chromium and chromium-driver."""


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for all tests. Without it they are skipped, or fail where MVGAN_REQUIRE_BROWSER is 1."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        reason = f"{' and '.join(missing)} not found: apt-get install --no-install-recommends chromium chromium-driver"
        if os.environ.get("MVGAN_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    paths = [shutil.which(name) or "" for name in PROGRAMS]
    with Browser(*paths) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    """The browser as a desktop with a light theme, its logs empty."""
    chromium.begin()
    return chromium


@pytest.fixture(scope="session")
def pages(tiny_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The file of each page: report, explorer, dataset, a sweep, and tables of the paper: of a sweep and more, and of pair generators."""
    from jobs import explore

    root = tmp_path_factory.mktemp("pages")
    copy = read_run(shutil.copytree(tiny_run.uri, root / "run"))
    build_report(copy)
    explore.run(explore.Flags(run=copy.uri, seeds="0-2", motion_seeds="0,5", frames=16, steps=9))
    shards = ShardSet.open(tiny_run.data)
    (root / "dataset.html").write_text(dataset_html(shards, survey(shards, (1, 2))), encoding="utf-8")
    table, frames = Path(build_table(tiny_run, str(root / "sweep"))), Path(build_frames(tiny_run, str(root / "frames")))
    found = {"report": root / "run/report.html", "explorer": root / "run/explorer.html", "dataset": root / "dataset.html"}
    return found | {"table": table, "frames": frames, "sweep": Path(build_sweep(tiny_run, str(root / "grid")))}


def build_sweep(tiny_run: RunFolder, uri: str) -> str:
    """The page of a sweep of intervals by numbers of codes, of whose trials all but the last are the same finished run."""
    folder = open_sweep(uri, Sweep(tiny_run.run, {"interval": ((4,), (2, 3)), "num_codes": (2, 1)}, tiny_run.data))
    trials = folder.sweep.trials()
    for trial in trials[:-1]:
        shutil.copytree(tiny_run.uri, folder.trial_uri(trial))
    return build_sweep_page(folder, [outcome(folder, trial) for trial in trials], {})


def build_table(tiny_run: RunFolder, uri: str) -> str:
    """The page of Table V, of whose trials all but the last are the same finished run."""
    table = TABLES["table5"]
    folder = open_sweep(uri, Sweep(tiny_run.run, {}, tiny_run.data, table.cases))
    trials = folder.sweep.trials()
    for trial in trials[:-1]:
        shutil.copytree(tiny_run.uri, folder.trial_uri(trial))
    outcomes = [outcome(folder, trial) for trial in trials]
    return build_sweep_page(folder, outcomes, {}, "table5", [paper_section(table, folder, measured_videos(outcomes), tiny=True)])


def build_frames(tiny_run: RunFolder, uri: str) -> str:
    """The page of Table VI, with seeds; all of its runs are the same finished one."""
    table = TABLES["table6-faceforensics"]
    folder = open_sweep(uri, table.sweep(tiny_run.run, tiny_run.data, {"seed": (0, 1, 2)}))
    trials = folder.sweep.trials()
    for trial in trials:
        shutil.copytree(tiny_run.uri, folder.generator_uri(trial))
    return build_frames_page(folder, table, [frames_outcome(folder, trial) for trial in trials], {}, "table6-faceforensics", tiny=True)
