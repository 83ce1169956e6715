"""The way through, as a user goes it: `python -m jobs.pipeline` in a process of its own, on six clips at 16 px.

References: an undisturbed run for a killed one, training in this process for training on Ray, and the files on disk.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mvgan.presets import smoke
from mvgan.storage.run import open_run, read_run
from mvgan.train.session import Worker, local_batches, train_worker
from tests.short_run import ROOT, command, environment, run


def commits(folder: Path) -> dict[str, int]:
    """All commit records and shards of a run with their times, by which a repeated stage would show."""
    return {str(p): p.stat().st_mtime_ns for pattern in ("*/commits/*.json", "data/shards/*") for p in folder.glob(pattern)}


def test_everything_lands_in_one_folder(finished: tuple[Path, str]) -> None:
    folder, said = finished
    assert Path(said.splitlines()[-1]) == folder / "report.html"
    page = (folder / "report.html").read_text()
    assert "<html" in page and "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    expected = ["run.json", "pairs/metrics.jsonl", "video/metrics.jsonl", "export/generator.safetensors", "export/codes.safetensors",
                "export/codes.json", "export/latent.safetensors", "export/config.json", "export/README.md",
                "data/manifest.json"]  # fmt: skip
    assert [name for name in expected if not (folder / name).exists()] == []
    assert json.loads((folder / "data/manifest.json").read_text())["num_videos"] == 6
    assert (
        list((folder / "samples").glob("pairs-*.png"))
        and list((folder / "tensorboard").rglob("events*"))
        and list((folder / "logs").iterdir())
    )


def test_the_same_command_repeats_nothing(finished: tuple[Path, str], clips: Path) -> None:
    folder, _ = finished
    before = commits(folder)
    again = run("--videos", str(clips), "--storage", str(folder.parent), "--name", "whole")
    assert again.returncode == 0, again.stderr
    assert commits(folder) == before


def test_another_config_is_refused_and_nothing_changed(finished: tuple[Path, str], clips: Path) -> None:
    folder, _ = finished
    before = (folder / "run.json").read_bytes()
    other = run("--videos", str(clips), "--storage", str(folder.parent), "--name", "whole", "--pairs.r1-gamma", "0.1")
    assert other.returncode == 2
    assert f"pairs.r1_gamma was {smoke().pairs.r1_gamma}, now 0.1" in other.stderr and "Traceback" not in other.stderr
    assert (folder / "run.json").read_bytes() == before


def test_training_on_ray_equals_training_in_this_process(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    on_ray = read_run(str(folder))
    alone = open_run(str(tmp_path / "alone"), on_ray.run, on_ray.data)
    from mvgan.data.shards import ShardSet
    from mvgan.train.export import export_weights

    batches = local_batches(ShardSet.open(on_ray.data), on_ray.run, "pairs")
    train_worker(alone, "pairs", alone.commits("pairs").claim({}), batches, Worker())
    export_weights(alone, "pairs")
    ours, theirs = (load_file(Path(f.uri) / "export/generator.safetensors") for f in (alone, on_ray))
    assert all((ours[key] == theirs[key]).all() for key in theirs)


def test_a_driver_killed_in_stage_1_goes_on(finished: tuple[Path, str], clips: Path, tmp_path: Path) -> None:
    """kill -9 of the driver; the same command ends with the weights of the undisturbed run, to the bit."""
    whole, _ = finished
    folder = tmp_path / "killed"
    shutil.copytree(whole / "data", folder / "data")
    before = commits(folder)
    flags = ("--videos", str(clips), "--storage", str(tmp_path), "--name", "killed")
    driver = subprocess.Popen(command(*flags), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(folder.glob("pairs/commits/*.json")):
        assert driver.poll() is None and time.monotonic() < deadline, "no commit before the end"
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    again = run(*flags)
    assert again.returncode == 0, again.stderr + again.stdout
    # Workers outlive their driver for a moment, in which they may come to the end of so short a stage.
    ended_alone = (folder / "pairs/commits/000000000640-00001.json").exists()
    assert ended_alone or "goes on from its commit at" in again.stdout
    assert {path: when for path, when in commits(folder).items() if "/data/shards/" in path} == before
    for name in ("generator", "codes", "latent"):
        one, other = (load_file(base / f"export/{name}.safetensors") for base in (whole, folder))
        assert all((one[key] == other[key]).all() for key in one), name


def test_two_workers_see_the_same_samples(finished: tuple[Path, str], tmp_path: Path) -> None:
    """Losses of a run with two workers are those of one, but for rounding."""
    whole, _ = finished
    done = run("--data", str(whole / "data"), "--storage", str(tmp_path), "--name", "two", "--workers", "2", job="pairs")
    assert done.returncode == 0, done.stderr + done.stdout
    one, two = (
        [json.loads(line) for line in (base / "pairs/metrics.jsonl").read_text().splitlines()] for base in (whole, tmp_path / "two")
    )
    assert all(record["workers"] == 2 and record["slowest_worker"] in (0, 1) for record in two if "d_loss" in record)
    (log,) = (tmp_path / "two/logs").glob("pairs-*.log")
    assert f"pairs: workers 0, 1 on {socket.gethostname()}" in log.read_text()
    ticks = [(a, b) for a, b in zip(one, two, strict=True) if "d_loss" in a]
    assert ticks[0][0]["d_loss"] == pytest.approx(ticks[0][1]["d_loss"], rel=1e-4)
    assert ticks[-1][0]["d_loss"] == pytest.approx(ticks[-1][1]["d_loss"], rel=0.2)


@pytest.mark.skipif("MVGAN_TEST_DATA" not in os.environ, reason="MVGAN_TEST_DATA names no folder with the talker clips")
def test_real_clips(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for path in sorted(Path(os.environ["MVGAN_TEST_DATA"], "talker").glob("*.mpg"))[:6]:
        shutil.copy(path, clips)
    done = run("--videos", str(clips), "--storage", str(tmp_path), "--name", "talker")
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads((tmp_path / "talker/data/manifest.json").read_text())["num_frames"] == 6 * 75
    assert Path(done.stdout.splitlines()[-1]).exists()
