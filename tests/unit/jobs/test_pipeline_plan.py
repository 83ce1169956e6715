"""`--dry-run` prints the plan with networks that are really built, and touches nothing."""

from pathlib import Path

import pytest

import jobs.pipeline
from jobs._cli import main


def plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    monkeypatch.setattr("sys.argv", ["pipeline", "--dry-run", *flags])
    main(jobs.pipeline.run, jobs.pipeline.Flags, "")
    return capsys.readouterr().out


def test_paper_preset(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Parameter counts of the released network (StyleGAN2 at 256 px, channel base 32768) with 6 channels."""
    said = plan(monkeypatch, capsys, "--preset", "ucf101", "--storage", str(tmp_path / "runs"))
    for words in (
        "30,043,191",
        "28,864,513",
        "22,136,706",
        "25,000,000 pairs of 256 px",
        "10 latents",
        "30 codes each way",
        "512 tangents",
    ):
        assert words in said
    assert [line.split(":")[0] for line in said.splitlines()] == ["ingest", "pairs", "codes", "video", "report"]
    assert list(tmp_path.iterdir()) == []


def test_length_of_stage_3_in_epochs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """5 epochs of one clip per video: 240 synthetic videos give 1,200 clips."""
    said = plan(monkeypatch, capsys, "--preset", "ucf101", "--storage", str(tmp_path / "runs"))
    assert "1,200 clips" in said
