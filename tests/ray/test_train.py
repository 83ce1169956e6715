"""Training on Ray when things go wrong: in their own words, and not tried again where that cannot help."""

import os
import threading
import time
from pathlib import Path

import pytest

from mvgan.config import Ended, InputError, Resources
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.synthetic import render_set
from mvgan.distributed.console import console
from mvgan.distributed.trainer import train_stage
from mvgan.presets import smoke
from mvgan.settings import from_dict
from mvgan.storage.run import RunFolder, open_run
from mvgan.storage.uri import LocalStore, Unreachable


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run on two clips that has not begun."""
    run = from_dict(smoke(), {"pairs": {"total_kimg": 0.32, "evaluations": 0, "batch": 8}})
    render_set(str(tmp_path / "clips"), 2, 24)
    plan = plan_ingest(str(tmp_path / "clips"), str(tmp_path / "data"), run)
    assert begin(plan) is None
    finish(plan, [ingest_group(group) for group in plan.groups])
    return open_run(str(tmp_path / "run"), run, str(tmp_path / "data"))


@pytest.mark.usefixtures("ray_session")
def test_a_shard_damaged_during_training_is_named(folder: RunFolder) -> None:
    """The check at the start has passed; decoding then meets the damage."""
    shard = next(Path(folder.data).glob("shards/*.parquet"))
    data = bytearray(shard.read_bytes())
    data[64 : len(data) // 2] = os.urandom(len(data) // 2 - 64)
    shard.write_bytes(data)
    with pytest.raises(InputError, match=shard.name):
        train_stage(folder, "pairs", Resources(threads=1, max_failures=3))
    assert "starting them again" not in Path(folder.uri, "logs/pairs-00001.log").read_text(), "what cannot heal was tried again"


@pytest.mark.usefixtures("ray_session")
def test_a_start_that_is_given_up_leaves_nothing_behind(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that still waits for Ray while Ray is shut down would end the driver by a segmentation fault."""
    monkeypatch.setattr("mvgan.distributed.trainer.check_cluster", lambda resources: None)
    monkeypatch.setattr("mvgan.distributed.elastic.await_room", lambda resources: resources.workers)
    with pytest.raises(Ended, match="0 of 8 workers have begun within 8 s"):
        train_stage(folder, "pairs", Resources(workers=8, threads=1, start_s=8))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("fit")]


class NoLogs(LocalStore):
    """A store that takes nothing."""

    def write(self, path: str, data: bytes) -> None:
        raise Unreachable(f"{path}: given up")


@pytest.mark.usefixtures("ray_session")
def test_workers_are_heard_while_the_storage_takes_no_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The alarms of missed commits come just then."""
    with console(NoLogs(tmp_path), "pairs-00001", lambda images, record: None) as out:
        out.say("before")
        time.sleep(1.5)  # the log has been written, or could not be
        out.say("ALARM")
    said = capsys.readouterr()
    assert [line for line in said.out.splitlines() if line in ("before", "ALARM")] == ["before", "ALARM"]
    assert f"{tmp_path}/logs/pairs-00001.log could not be written: logs/pairs-00001.log: given up" in said.out
    assert "Traceback" not in said.out + said.err
