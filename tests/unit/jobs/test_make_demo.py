"""`make demo` gives the pipeline what the user gave, whatever the path holds; the run's name follows from it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from jobs._cli import Place
from jobs._source import Source
from jobs.pipeline import Flags


ROOT = Path(__file__).parents[3]
SMOKE = ["--preset", "smoke", "--storage", "runs"]


def arguments(tmp_path: Path, *given: str, **environment: str) -> list[str]:
    """What `make demo` starts Python with, in a set-up that is ready."""
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "venv" / ".ready").touch()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (0, 0))
    clean = {key: value for key, value in os.environ.items() if key not in ("PRESET", "VIDEOS", "NAME", "STORAGE", "VENV", "MAKEFLAGS")}
    command = ["make", "--silent", "--no-print-directory", "demo", "VENV=venv", *given]
    done = subprocess.run(command, cwd=tmp_path, env=clean | environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\0")[:-1]


def test_make_demo(tmp_path: Path) -> None:
    assert arguments(tmp_path) == ["-m", "jobs.pipeline", "--preset", "demo", "--storage", "runs"]


def test_make_demo_with_a_preset_and_a_name(tmp_path: Path) -> None:
    assert arguments(tmp_path, "PRESET=smoke", "NAME=mine too") == ["-m", "jobs.pipeline", *SMOKE, "--name", "mine too"]


@pytest.mark.parametrize("videos", ["dir", "/tmp/bob's", "/tmp/my videos/", 'say "hi"', "`touch harm`; touch harm", "s3://bucket/x"])
@pytest.mark.parametrize("way", ["argument", "environment"])
def test_make_demo_with_videos(videos: str, way: str, tmp_path: Path) -> None:
    given = (f"VIDEOS={videos}",) if way == "argument" else ()
    environment = {"VIDEOS": videos} if way == "environment" else {}
    found = arguments(tmp_path, "PRESET=smoke", *given, **environment)
    assert found == ["-m", "jobs.pipeline", *SMOKE, "--videos", videos]
    assert not (tmp_path / "harm").exists()


def test_make_demo_with_a_dollar(tmp_path: Path) -> None:
    assert arguments(tmp_path, "VIDEOS=/tmp/$(HOME)$x")[-1] == "/tmp/$(HOME)$x"


@pytest.mark.parametrize(
    ("videos", "name", "expected"),
    [
        (None, None, "runs/smoke"),
        (None, "mine", "runs/mine"),
        ("clips", None, "runs/smoke-clips"),
        ("/tmp/bob's/", None, "runs/smoke-bob's"),
        ("/tmp/my videos", None, "runs/smoke-my videos"),
        ("/tmp/x/..", None, "runs/smoke-tmp"),
        ("/", None, "runs/smoke"),
        ("s3://bucket", None, "runs/smoke-bucket"),
        ("s3://bucket/deep/faces/", None, "runs/smoke-faces"),
        ("clips", "mine", "runs/mine"),
    ],
)
def test_the_name_of_a_run(videos: str | None, name: str | None, expected: str) -> None:
    assert Flags(preset="smoke", source=Source(videos=videos), place=Place("runs", name)).uri() == expected
