"""A sweep that is ended from outside leaves a page of what there is."""

import contextlib
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import sweep
from mvgan.config import Ended
from mvgan.storage.run import RunFolder
from mvgan.sweep import SweepFolder


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [(Ended("the 2 hours are over"), 1, "error: the 2 hours are over"), (KeyboardInterrupt(), 130, "interrupted; the same command")],
)
def test_what_ends_early_is_concluded(
    error: BaseException, status: int, words: str, tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    left: list[str] = []

    @contextlib.contextmanager
    def session(resources: object) -> Iterator[None]:
        try:
            yield
        finally:
            left.append("Ray")

    def run_sweep(folder: SweepFolder, resources: object, at_once: int, halving: int, failed: dict[str, str]) -> None:
        failed[folder.sweep.trials()[1].key] = "no <room>"
        raise error

    monkeypatch.setattr(sweep, "session", session)
    monkeypatch.setattr(sweep, "check_room", lambda *arguments: None)
    monkeypatch.setattr(sweep, "run_sweep", run_sweep)
    flags = f"--preset smoke --data {tiny_run.data} --storage {tmp_path} --name s --video.num-frames 4 --num-codes 2 4"
    monkeypatch.setattr(sys, "argv", ["sweep", *flags.split()])
    with pytest.raises(SystemExit) as stop:
        sweep.cli()
    said = capsys.readouterr()
    assert stop.value.code == status and said.err.startswith(words) and left == ["Ray"]
    assert said.out.endswith(f"sweep: ended before its end; its page is written of what there is\n{tmp_path}/s/sweep.parquet\n"
                             f"{tmp_path}/s/sweep.csv\n{tmp_path}/s/sweep.html\n")  # fmt: skip
    with open(tmp_path / "s/sweep.csv", newline="") as file:
        assert [(row["num_codes"], row["status"]) for row in csv.DictReader(file)] == [("2", "unfinished"), ("4", "unfinished")]
    page = (tmp_path / "s/sweep.html").read_text()
    assert "unfinished" in page and "failed: no &lt;room&gt;" in page
