"""Each mistake that a user can make: one line that says what, where and what to do, exit status 2, nothing written.

Reference: the list in the README's promise; the file system before and after.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load, save

import jobs.codes
import jobs.generate
import jobs.ingest
import jobs.pairs
import jobs.pipeline
import jobs.video
from jobs._cli import main
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.synthetic import render_set
from mvgan.presets import smoke
from mvgan.settings import from_dict
from mvgan.storage.run import RunFolder, open_run


Refused = Callable[..., str]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Refused:
    """Runs a verb that must refuse; returns its one line."""

    def call(verb: ModuleType, *flags: str) -> str:
        monkeypatch.setattr("ray.init", pytest.fail)
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
        monkeypatch.setattr("sys.argv", ["verb", *flags])
        with pytest.raises(SystemExit) as stop:
            main(verb.run, verb.Flags, "")
        assert stop.value.code == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and "Traceback" not in err
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
        return err

    return call


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    render_set(str(folder), 2, 24)
    return folder


@pytest.fixture(scope="module")
def whole_shards(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "data"
    plan = plan_ingest(str(clips), str(out), smoke())
    assert begin(plan) is None
    finish(plan, [ingest_group(group) for group in plan.groups])
    return out


@pytest.fixture
def shards(whole_shards: Path, tmp_path: Path) -> Path:
    """Two clips of 24 frames at 16 px, to be spoilt."""
    return Path(shutil.copytree(whole_shards, tmp_path / "data"))


def test_missing_folder(refused: Refused, tmp_path: Path) -> None:
    assert "/no/such/folder" in refused(
        jobs.pipeline, "--preset", "smoke", "--videos", "/no/such/folder", "--storage", str(tmp_path / "runs")
    )


def test_folder_without_a_video(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    assert "no video" in refused(jobs.ingest, "--videos", str(tmp_path), "--out", str(tmp_path / "out"))


def test_no_shards(refused: Refused, tmp_path: Path) -> None:
    assert "manifest.json" in refused(jobs.pairs, "--data", str(tmp_path / "nothing"), "--storage", str(tmp_path))


def test_videos_too_short_for_the_interval(refused: Refused, shards: Path, tmp_path: Path) -> None:
    line = refused(jobs.pairs, "--preset", "smoke", "--data", str(shards), "--interval", "24", "--storage", str(tmp_path / "runs"))
    assert "24" in line and "25" in line


def test_videos_too_short_for_the_clips(refused: Refused, shards: Path, tmp_path: Path) -> None:
    line = refused(jobs.pipeline, "--preset", "smoke", "--data", str(shards), "--storage", str(tmp_path / "runs"))
    assert "61" in line and "24" in line


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--interval", "0"), "interval 0"),
        (("--interval", "four"), "--interval"),
        (("--resolution", "48"), "power of two"),
        (("--pairs.batch", "18"), "logical shards"),
        (("--num-codes", "33"), "num_codes 33"),
        (("--stride", "0"), "stride"),
        (("--preset", "faces"), "unknown preset"),
        (("--pairs.colour", "red"), "--pairs.colour"),
        (("--pairs.bach", "16"), "near are --pairs.batch"),
        (("--num-code", "3"), "near are --num-codes"),
        (("--pairs.r1-gamma", "inf"), "pairs.r1_gamma is inf; it must be finite and at least 0"),
        (("--pairs.lr", "inf"), "pairs.lr is inf; it must be finite and above 0"),
        (("--data", "s3://my bucket/x"), "the bucket 'my bucket' is no name"),
        (("--config", "/no/such.yaml"), "/no/such.yaml"),
    ],
)
def test_settings(refused: Refused, flags: tuple[str, ...], said: str, tmp_path: Path) -> None:
    preset = () if "--preset" in flags else ("--preset", "smoke")
    assert said in refused(jobs.pipeline, *preset, *flags, "--storage", str(tmp_path / "runs"))


def test_unknown_key_of_a_config_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("pairs:\n  bach: 16\n")
    assert "pairs.bach" in refused(jobs.pipeline, "--config", str(tmp_path / "config.yaml"), "--storage", str(tmp_path / "runs"))


@pytest.mark.parametrize("spoil", ["flip", "cut", "remove"])
def test_damaged_shard(refused: Refused, shards: Path, spoil: str, tmp_path: Path) -> None:
    shard = next(shards.glob("shards/*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    if spoil == "remove":
        shard.unlink()
    else:
        shard.write_bytes(data[: len(data) // 2] if spoil == "cut" else data)
    line = refused(jobs.pairs, "--preset", "smoke", "--data", str(shards), "--storage", str(tmp_path / "runs"))
    assert shard.name in line


def test_shards_of_another_resolution(refused: Refused, shards: Path, tmp_path: Path) -> None:
    line = refused(jobs.pairs, "--preset", "smoke", "--resolution", "32", "--data", str(shards), "--storage", str(tmp_path / "runs"))
    assert "16 px" in line and "32 px" in line


def test_stages_out_of_order(refused: Refused, shards: Path, tmp_path: Path) -> None:
    folder = open_run(str(tmp_path / "run"), from_dict(smoke(), {"stride": 1}), str(shards))
    assert "jobs.pairs" in refused(jobs.codes, "--run", folder.uri)
    assert "jobs.codes" in refused(jobs.video, "--run", folder.uri)
    assert "no run" in refused(jobs.codes, "--run", str(tmp_path))


def test_more_workers_than_logical_shards(refused: Refused, shards: Path, tmp_path: Path) -> None:
    flags = ("--pairs.batch", "16", "--pairs.group", "4", "--workers", "5")
    line = refused(jobs.pairs, "--preset", "smoke", "--data", str(shards), "--storage", str(tmp_path / "runs"), *flags)
    assert "5 workers" in line and "4 logical shards" in line


def test_a_file_where_a_folder_is_due(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"no folder")
    runs = str(tmp_path / "runs")
    assert "clip.mp4" in refused(jobs.ingest, "--videos", str(file), "--out", str(tmp_path / "out"))
    assert "clip.mp4" in refused(jobs.pairs, "--data", str(file), "--storage", runs)
    assert "clip.mp4" in refused(jobs.codes, "--run", str(file))


def test_an_existing_run_with_another_config_is_refused_before_work_starts(
    refused: Refused, clips: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Ray, no rendering and no ingest, whatever of config or data is another."""
    monkeypatch.setattr("jobs.pipeline.session", pytest.fail)
    folder = open_run(str(tmp_path / "runs" / "smoke"), smoke(), str(tmp_path / "runs" / "smoke" / "data"))
    commits = folder.commits("pairs")
    commits.write(8, commits.claim({}), {}, {"complete": False})
    there = ("--preset", "smoke", "--storage", str(tmp_path / "runs"), "--name", "smoke")
    assert "pairs.lr was 0.002, now 0.1" in refused(jobs.pipeline, *there, "--videos", str(clips), "--pairs.lr", "0.1")
    assert "data was" in refused(jobs.pipeline, *there, "--data", str(shards))
    assert "pairs.lr" in refused(jobs.pipeline, *there, "--pairs.lr", "0.1")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("{", "run.json is damaged"),
        ("[]", "run.json has format None; this mvgan reads format 1"),
        ('{"format_version": 2}', "run.json has format 2; this mvgan reads format 1"),
        ('{"format_version": 1}', "run.json is damaged (config or data is missing)"),
        ('{"format_version": 1, "config": [], "data": "x"}', "run.json is damaged (config or data is missing)"),
        (
            '{"format_version": 1, "config": {"speed": 1}, "data": "x"}',
            "run.json is damaged or of another version (unknown setting 'speed'",
        ),
        ('{"format_version": 1, "config": {"resolution": 5}, "data": "x"}', "run.json is damaged or of another version (resolution 5"),
    ],
)
def test_a_damaged_run_record(refused: Refused, record: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(record)
    line = refused(jobs.codes, "--run", str(tmp_path))
    assert said in line and "--name" in line


@pytest.mark.parametrize("record", ["{}", "[]", '{"format_version": 1}', '{"format_version": 1, "shards": [{}]}'])
def test_a_damaged_manifest(refused: Refused, shards: Path, record: str, tmp_path: Path) -> None:
    (shards / "manifest.json").write_text(record)
    line = refused(jobs.pairs, "--preset", "smoke", "--data", str(shards), "--storage", str(tmp_path / "runs"))
    assert "data/manifest.json" in line and "run ingest again" in line


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("generator.safetensors", None, "damaged"),
        ("latent.safetensors", None, "damaged"),
        ("codes.safetensors", None, "damaged"),
        ("codes.safetensors", save({"backward": torch.zeros(2, 32)}), "tensor forward is missing"),
        ("generator.safetensors", save({"x": torch.zeros(1)}), "is missing"),
        ("config.json", b"{", "damaged"),
        ("config.json", b"[]", "it holds list"),
        ("config.json", b"{}", "config or fps is missing"),
        ("config.json", b'{"config": {"speed": 1}, "fps": 25}', "unknown setting 'speed'"),
    ],
)
def test_a_damaged_export(refused: Refused, tiny_run: RunFolder, file: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    """`None` cuts the file in two."""
    folder = shutil.copytree(Path(tiny_run.uri, "export"), tmp_path / "run" / "export")
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2] if content is None else content)
    line = refused(jobs.generate, "--run", str(tmp_path / "run"), "--out", str(tmp_path / "x.mp4"))
    assert f"export/{file} is damaged" in line and said in line and "jobs.pipeline" in line


def test_weights_of_another_network(refused: Refused, tiny_run: RunFolder, tmp_path: Path) -> None:
    folder = shutil.copytree(Path(tiny_run.uri, "export"), tmp_path / "run" / "export")
    tensors = {name: tensor[..., :-1].contiguous() for name, tensor in load((folder / "latent.safetensors").read_bytes()).items()}
    (folder / "latent.safetensors").write_bytes(save(tensors))
    line = refused(jobs.generate, "--run", str(tmp_path / "run"), "--out", str(tmp_path / "x.mp4"))
    assert "latent.safetensors is damaged (its tensors are not those of the settings" in line


def test_synthetic_videos_on_s3(refused: Refused) -> None:
    assert "local" in refused(jobs.pipeline, "--preset", "smoke", "--storage", "s3://bucket/runs")
