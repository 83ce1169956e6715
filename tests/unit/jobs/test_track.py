"""`--track` with mistakes: one line, exit status 2, before work starts."""

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest

from jobs import evaluate, pairs, pipeline
from tests.unit.jobs.test_cli import refused


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where `package` is not installed."""
    known = importlib.metadata.distribution

    def distribution(name: str) -> Any:
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


def test_an_unknown_tracker(shards: Path) -> None:
    line = refused(pairs.run, pairs.Flags, "--data", str(shards), "--track", "mlfow")
    assert "mlfow" in line and "mlflow" in line and "wandb" in line


@pytest.mark.parametrize(("track", "package"), [("mlflow", "mlflow-skinny"), ("wandb", "wandb")])
def test_a_tracker_that_is_not_installed(
    track: str, package: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A folder of its name, as W&B leaves one where it ran, is no package."""
    (tmp_path / track).mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    without(package, monkeypatch)
    for verb in (pairs, pipeline):
        line = refused(verb.run, verb.Flags, "--data", str(shards), "--storage", str(tmp_path / "runs"), "--track", track)
        assert f"--track {track} needs the package {package}" in line and f"pip install 'mvgan[{track}]'" in line
    assert f"needs the package {package}" in refused(evaluate.run, evaluate.Flags, "--run", "nowhere", "--track", track)
    assert not (tmp_path / "runs").exists()


def test_mlflow_without_an_address(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    line = refused(pairs.run, pairs.Flags, "--data", str(shards), "--storage", str(tmp_path / "runs"), "--track", "mlflow")
    assert "MLFLOW_TRACKING_URI" in line and not (tmp_path / "runs").exists()
