"""MLflow as a tracker, against its own server: what it holds after training, after a kill, and after it was away.

Reference: the run's own records, and settings as run.json has them.
"""

import importlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mvgan.config import InputError
from mvgan.data.shards import ShardSet
from mvgan.storage.run import RunFolder, open_run
from mvgan.train.session import Worker, local_batches, train_worker
from mvgan.train.trackers import IDENTITY, Mlflow, about, maker
from mvgan.train.tracking import Tracking
from tests import trackers
from tests.ports import free_ports
from tests.unit.train import test_session as session


RUN, data = session.RUN, session.data


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    trackers.needs("mlflow", "sqlalchemy", "alembic", "flask")
    with trackers.mlflow_server(tmp_path_factory.mktemp("mlflow"), free_ports(1)[0]) as uri:
        yield uri


@pytest.fixture
def address(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    return server


def client(uri: str) -> Any:
    return importlib.import_module("mlflow.tracking").MlflowClient(uri)


def runs(uri: str, folder: RunFolder) -> list[Any]:
    """The server's runs of this folder."""
    known = client(uri)
    experiment = known.get_experiment_by_name("mvgan")
    return known.search_runs([experiment.experiment_id], f"tags.`mvgan.run` = '{folder.uri}'") if experiment else []


def held(uri: str, run: Any, key: str) -> list[tuple[int, float]]:
    """Steps and values of a metric, as the server has them."""
    return [(metric.step, metric.value) for metric in client(uri).get_metric_history(run.info.run_id, key)]


def train(folder: RunFolder, stage: str, said: list[str], track: str = "mlflow") -> None:
    batches = local_batches(ShardSet.open(folder.data), folder.run, stage)
    train_worker(folder, stage, folder.commits(stage).claim({}), batches, Worker(say=said.append, track=track))


@pytest.fixture
def folder(data: ShardSet, tmp_path: Path) -> RunFolder:
    return open_run(str(tmp_path / "faces"), RUN, data.uri)


def test_a_trained_stage(address: str, folder: RunFolder) -> None:
    """Every figure at its images; settings of later stages, which may still change, are not there."""
    said: list[str] = []
    train(folder, "pairs", said)
    (run,) = runs(address, folder)
    assert not [line for line in said if "takes no metrics" in line or "has not taken" in line]
    for figure in ("g_loss", "d_loss", "frechet", "pairs_per_s", "peak_memory_mb"):
        assert held(address, run, f"pairs/{figure}") == trackers.points(folder, "pairs", figure)
    assert run.data.params["pairs.r1_gamma"] == "1.0" and run.data.params["resolution"] == "16"
    assert not [name for name in run.data.params if name.startswith(("codes.", "video.")) or name in ("num_codes", "stride")]
    tags = run.data.tags
    assert (tags["mvgan.export"], tags["mvgan.data"]) == (f"{folder.uri}/export", folder.data)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "faces") and not client(address).list_artifacts(run.info.run_id)
    assert json.loads(folder.store.read(IDENTITY))["id"] == tags["mvgan.id"]


def test_later_stages_go_on_in_the_same_run(address: str, folder: RunFolder) -> None:
    for stage in ("pairs", "video"):
        tracker = Mlflow(about(folder, stage))
        assert tracker.start() == -1
        tracker.record(8, {"g_loss": 1.0})
        tracker.end(True)
    (run,) = runs(address, folder)
    assert held(address, run, "pairs/g_loss") == held(address, run, "video/g_loss") == [(8, 1.0)]
    assert run.data.params["video.residual"] == "0.2" and run.data.params["interval"] == "[4]"
    assert Mlflow(about(folder, "video")).start() == 8


def test_a_killed_run_goes_on_in_the_same_run(address: str, folder: RunFolder) -> None:
    """SIGKILL after 56 pairs, of which a commit has the first 32: no step is there twice, and none is missing."""
    trackers.kill_after(
        folder, "mlflow", 7, lambda: [run for run in runs(address, folder) if run.data.tags.get("mvgan.told.pairs") == "48"]
    )
    assert max(commit.images for commit in folder.commits("pairs").records()) == 32
    (before,) = runs(address, folder)
    assert before.info.status == "RUNNING" and [step for step, _ in held(address, before, "pairs/g_loss")] == [24, 32, 48]
    train(folder, "pairs", [])
    (run,) = runs(address, folder)
    assert run.info.run_id == before.info.run_id and run.info.status == "FINISHED"
    for figure in ("g_loss", "frechet"):
        assert held(address, run, f"pairs/{figure}") == trackers.points(folder, "pairs", figure), "the same bits, as on any CPU"


def test_a_run_that_fails_is_marked(address: str, folder: RunFolder) -> None:
    def broken(images: int, ranks: Any) -> Iterator[Any]:
        raise RuntimeError("the data is gone")
        yield

    with pytest.raises(RuntimeError, match="the data is gone"):
        train_worker(folder, "pairs", folder.commits("pairs").claim({}), broken, Worker(say=print, track="mlflow"))
    (run,) = runs(address, folder)
    assert run.info.status == "FAILED" and "mvgan.export" not in run.data.tags


def test_a_server_that_is_down_is_said_once_and_costs_no_step(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as without a tracker, and no credentials in the line."""
    trackers.needs("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:hidden@127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said: list[str] = []
    started = time.monotonic()
    train(folder, "pairs", said)
    assert time.monotonic() - started < 60
    (line,) = [line for line in said if "mlflow" in line]
    assert line.startswith("mlflow takes no metrics (") and "hidden" not in line and "training goes on" in line
    alone = open_run(f"{folder.uri}-alone", RUN, folder.data)
    train(alone, "pairs", [], track="none")
    assert session.equal(session.outcome(folder, "pairs")[0], session.outcome(alone, "pairs")[0])


def test_a_server_that_comes_back_is_told_what_it_missed(folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while a stage is told, and started again on the same store: all is there, once."""
    trackers.needs("mlflow", "sqlalchemy", "alembic", "flask")
    port = free_ports(1)[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking = Tracking("mlflow", maker("mlflow", folder, "pairs"), [], (said := list[str]()).append, 0.1)
    with trackers.mlflow_server(tmp_path / "server", port) as uri:
        tracking.start(None, None)
        tell(tracking, range(8, 48, 8))
        trackers.until(lambda: [run for run in runs(uri, folder) if run.data.tags.get("mvgan.told.pairs") == "40"])
    tell(tracking, range(48, 80, 8))
    trackers.until(lambda: said)
    with trackers.mlflow_server(tmp_path / "server", port) as uri:
        tracking.leave(True, 60)
        (run,) = runs(uri, folder)
        assert held(uri, run, "pairs/loss") == [(images, float(images)) for images in range(8, 80, 8)]
        assert run.info.status == "FINISHED" and len(said) == 1


def tell(tracking: Tracking, images: range) -> None:
    for number in images:
        tracking.history.append({"images": number, "loss": float(number)})
        tracking.after_step(None, None, {})


def test_a_worker_without_an_address_says_so(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it trains: MLflow would write to a file of its own on that machine."""
    trackers.needs("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI, which is not set on"):
        train(folder, "pairs", [])
    assert folder.commits("pairs").newest() is None and "MLFLOW_TRACKING_URI" not in os.environ
