"""`--dry-run` prints the plan with networks that are really built, and touches nothing."""

from pathlib import Path

import pytest
import yaml

import jobs.pipeline
from jobs._cli import main
from mvgan.settings import to_dict
from mvgan.storage.run import RunFolder


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


def test_codes_of_single_layers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = plan(monkeypatch, capsys, "--preset", "ucf101", "--codes.space", "w+", "--storage", str(tmp_path / "runs"))
    assert "each 512 tangents of each layer, of 2 frames of 256 px" in said


def test_a_preset_that_needs_videos(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The plan counts no synthetic videos, which the run itself would not render."""
    said = plan(monkeypatch, capsys, "--preset", "ucf101", "--storage", str(tmp_path / "runs"))
    assert said.startswith("ingest: preset ucf101 needs videos; give --videos or --data (synthetic ones are for demo, tiny, smoke)\n")
    assert "video: 5 epochs of one clip per video" in said and "synthetic videos" not in said and "clips of" not in said


def test_length_of_stage_3_in_epochs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """5 epochs of one clip per video: the 240 synthetic videos of the demo give 1,200 clips."""
    said = plan(monkeypatch, capsys, "--video.epochs", "5", "--storage", str(tmp_path / "runs"))
    assert "ingest: 240 synthetic videos" in said and "video: 1,200 clips" in said


def test_stages_that_are_done(tiny_run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder, name = tiny_run.uri.rsplit("/", 1)
    settings = Path(tiny_run.uri).parent / "settings.yaml"
    settings.write_text(yaml.safe_dump(to_dict(tiny_run.run)))
    said = plan(monkeypatch, capsys, "--config", str(settings), "--data", tiny_run.data, "--storage", folder, "--name", name)
    assert [line for line in said.splitlines() if line.endswith("complete, skipped")] == [
        "pairs: complete, skipped", "codes: complete, skipped", "video: complete, skipped",
    ]  # fmt: skip
