"""Ingest as a Ray Data job gives what the plain functions give."""

from pathlib import Path

import pytest

from mvgan.config import Ingest, InputError, Run
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.synthetic import render_set
from mvgan.distributed.ingest import ingest


pytestmark = pytest.mark.usefixtures("ray_session")
RUN = Run(resolution=16)


def parquet(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.parquet")}


def test_the_job_equals_the_plain_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("mvgan.data.ingest.MIN_GROUP_BYTES", 1)
    render_set(str(tmp_path / "videos"), num_videos=6, num_frames=20, size=32, seed=4)
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"nothing to see here")
    plan = plan_ingest(str(tmp_path / "videos"), str(tmp_path / "plain"), RUN)
    begin(plan)
    expected = finish(plan, [ingest_group(group) for group in plan.groups])
    manifest = ingest(str(tmp_path / "videos"), str(tmp_path / "job"), RUN)
    assert manifest == expected
    assert len(manifest["shards"]) == 6 and manifest["rejected"][0]["source"] == "broken.mp4"
    assert parquet(tmp_path / "job") == parquet(tmp_path / "plain")
    shown = capsys.readouterr().out
    assert "7/7 files, 120 frames" in shown and "ETA 0 s" in shown and "rejected: broken.mp4" in shown
    assert ingest(str(tmp_path / "videos"), str(tmp_path / "job"), RUN) == manifest
    assert "is complete" in capsys.readouterr().out


def test_too_many_rejected_end_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four are broken; one in four may be."""
    monkeypatch.setattr("mvgan.data.ingest.MIN_GROUP_BYTES", 1)
    render_set(str(tmp_path / "videos"), num_videos=2, num_frames=8, size=32, seed=4)
    for name in ("broken", "face_broken"):
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(b"nothing to see here")
    run = Run(resolution=16, ingest=Ingest(max_rejected=0.25))
    with pytest.raises(InputError, match=r"2 of 4 videos .* more than ingest\.max_rejected 0\.25"):
        ingest(str(tmp_path / "videos"), str(tmp_path / "out"), run)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_all_failing_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"nothing to see here")
    with pytest.raises(InputError, match="none of the 1 videos") as error:
        ingest(str(tmp_path / "videos"), str(tmp_path / "out"), RUN)
    assert "\n" not in str(error.value)
