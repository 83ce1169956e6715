"""A tracker told from a worker of Ray: the verb as a user calls it, with MLflow's own server.

Reference: the run's own records.
"""

import importlib
from pathlib import Path

import pytest

from mvgan.storage.run import read_run
from tests import short_run, trackers
from tests.ports import free_ports


def test_a_stage_is_told(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address reaches the worker by its environment; it is in no line, and in no file of the run."""
    trackers.needs("mlflow", "sqlalchemy", "alembic", "flask")
    with trackers.mlflow_server(tmp_path / "server", free_ports(1)[0]) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//someone:pw-7f3a@"))
        flags = ("--data", str(shards), "--storage", str(tmp_path), "--name", "told", "--track", "mlflow")
        done = short_run.run(*flags, job="pairs")
        assert done.returncode == 0, done.stderr
        assert "pw-7f3a" not in done.stdout + done.stderr and "takes no metrics" not in done.stdout
        client = importlib.import_module("mlflow.tracking").MlflowClient(uri)
        (run,) = client.search_runs([client.get_experiment_by_name("mvgan").experiment_id])
        told = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "pairs/g_loss")]
    folder = read_run(str(tmp_path / "told"))
    assert told == trackers.points(folder, "pairs", "g_loss") and len(told) == 4
    assert (run.info.status, run.data.tags["mvgan.export"]) == ("FINISHED", f"{folder.uri}/export")
    assert not [path for path in Path(folder.uri).rglob("*") if path.is_file() and b"pw-7f3a" in path.read_bytes()]
