"""Weights & Biases as a tracker, offline: what its own package has written, read back from its files.

References: the run's own records. A file is a LevelDB log of W&B's protocol buffers.
"""

import dataclasses
import importlib
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mvgan.data.shards import ShardSet
from mvgan.storage.run import RunFolder, open_run
from mvgan.train.session import Worker, local_batches, train_worker
from mvgan.train.trackers import IDENTITY, Wandb, about, steps_in
from tests import trackers
from tests.ports import free_ports
from tests.unit.train import test_session as session


RUN, data = session.RUN, session.data
HEADER, BLOCK = 7, 32768


@pytest.fixture
def folder(data: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    trackers.needs("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    yield open_run(str(tmp_path / "faces"), RUN, data.uri)
    importlib.import_module("wandb").teardown()  # it reads the environment once


def train(folder: RunFolder, said: list[str]) -> None:
    batches = local_batches(ShardSet.open(folder.data), folder.run, "pairs")
    train_worker(folder, "pairs", folder.commits("pairs").claim({}), batches, Worker(say=said.append, track="wandb"))


def logged(file: bytes) -> Iterator[Any]:
    """The records of a `.wandb` file: blocks of parts [checksum 4, length 2, kind 1, data] after a header of 7 bytes."""
    record = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    if not file:  # not written yet
        return
    assert file[:4] == b":W&B"
    place, whole = HEADER, b""
    while place + HEADER <= len(file):
        if BLOCK - place % BLOCK < HEADER:  # what is left of a block holds no part
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", file[place : place + HEADER])
        if place + HEADER + length > len(file):  # being written
            return
        whole += file[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield record.FromString(whole)
            whole = b""


def written(tmp_path: Path) -> list[Any]:
    """All records that W&B has written, process by process."""
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [record for path in files for record in logged(path.read_bytes())]


def row(record: Any) -> dict[str, Any]:
    items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
    return {**items, "_step": record.history.step.num}


def points(records: list[Any], figure: str) -> list[tuple[int, float]]:
    """Steps and values of a figure, in the order in which they were logged."""
    found = [row(record) for record in records if record.HasField("history")]
    return [(values["_step"], values[figure]) for values in found if figure in values]


def settings(records: list[Any]) -> dict[str, Any]:
    updates = [item for record in records if record.HasField("run") for item in record.run.config.update]
    updates += [item for record in records if record.HasField("config") for item in record.config.update]
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}


def test_a_trained_stage(folder: RunFolder, tmp_path: Path) -> None:
    said: list[str] = []
    train(folder, said)
    records = written(tmp_path)
    assert not [line for line in said if "takes no metrics" in line or "has not taken" in line]
    for figure in ("g_loss", "frechet", "pairs_per_s"):
        assert points(records, figure) == trackers.points(folder, "pairs", figure)
    known = settings(records)
    assert known["pairs.r1_gamma"] == "1.0" and known["export_uri"] == f"{folder.uri}/export" and "video.residual" not in known
    (run,) = {(record.run.run_id, record.run.run_group, record.run.job_type) for record in records if record.HasField("run")}
    assert run == (json.loads(folder.store.read(IDENTITY))["id"] + "-pairs", "faces", "pairs")
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0]
    assert not [file.path for record in records for file in record.files.files if "requirements" in file.path or "code" in file.path]


@pytest.mark.parametrize("kept", [False, True])
def test_a_killed_run_goes_on_by_the_same_id(kept: bool, folder: RunFolder, tmp_path: Path) -> None:
    """SIGKILL after 56 pairs, of which a commit has the first 32: no step is there twice, and none is missing.

    Killed at once, W&B has kept nothing of what it took; after some seconds, all of it.
    """

    def told() -> bool:
        return max((commit.images for commit in folder.commits("pairs").records()), default=0) == 32

    trackers.kill_after(folder, "wandb", 7, lambda: 48 in dict(points(written(tmp_path), "g_loss")) if kept else told())
    before = points(written(tmp_path), "g_loss")
    assert [step for step, _ in before] == ([24, 32, 48] if kept else [])
    time.sleep(1.1)  # W&B's folders are named by seconds
    train(folder, [])
    records = written(tmp_path)
    for figure in ("g_loss", "frechet"):
        assert points(records, figure) == trackers.points(folder, "pairs", figure)
    assert len({record.run.run_id for record in records if record.HasField("run")}) == 1


def test_a_server_that_is_down_is_said_once_and_costs_no_step(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as without a tracker, in about the time that W&B may take at the end, and no key in the line."""
    key = "0123456789" * 4
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setattr("mvgan.train.trackers.INIT_S", 3.0)
    said: list[str] = []
    started = time.monotonic()
    train(folder, said)
    assert time.monotonic() - started < 60
    (line,) = [line for line in said if "wandb" in line]
    assert line.startswith("wandb takes no metrics (") and key not in line
    alone = open_run(f"{folder.uri}-alone", dataclasses.replace(RUN), folder.data)
    batches = local_batches(ShardSet.open(alone.data), alone.run, "pairs")
    train_worker(alone, "pairs", alone.commits("pairs").claim({}), batches, Worker(say=said.append))
    assert session.equal(session.outcome(folder, "pairs")[0], session.outcome(alone, "pairs")[0])


def test_a_file_that_breaks_off_is_read_as_far_as_it_goes(folder: RunFolder, tmp_path: Path) -> None:
    """At any byte, beyond a block of 32 KiB too. Reference: the steps that were logged."""
    tracker = Wandb(about(folder, "video"))
    assert tracker.start() == -1
    for images in range(8, 808, 8):
        tracker.record(images, {f"figure_{number}": float(number) for number in range(20)})
    tracker.end(False)
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    log = path.read_bytes()
    assert len(log) > 2 * BLOCK and list(steps_in(log)) == list(range(8, 808, 8))
    for size in range(0, len(log), 997):
        found = list(steps_in(log[:size]))
        assert found == list(range(8, 8 * len(found) + 8, 8))
    assert Wandb(about(folder, "video")).start() == 800
    importlib.import_module("wandb").finish()
