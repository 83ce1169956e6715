"""Files beside training: TensorBoard events of a resumed run, metrics, and a storage that refuses them."""

import json
import math
import struct
import threading
from pathlib import Path

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from mvgan.config import InputError
from mvgan.storage.uri import LocalStore
from mvgan.train.guard import SKIPPED
from mvgan.train.hooks import Recorder, Ticker, read_metrics
from mvgan.train.outbox import Outbox
from mvgan.train.ranks import Ranks
from mvgan.train.stage import Plan
from mvgan.train.state import Progress


PLAN = Plan(total=40, batch=4, tick=8, commit=16)


class Looked:
    """What a ticker asks of a stage."""

    def look(self, images: int) -> dict[str, float]:
        return {"d_phase_s": images / 1000}


def train(folder: Path, start: int, end: int, losses: float, skipped: float = 0.0) -> tuple[list[dict[str, float]], list[str]]:
    """Steps from `start` to `end` images, as a process of their own makes them; returns the history and what was said."""
    said: list[str] = []
    history: list[dict[str, float]] = []
    outbox = Outbox(LocalStore(folder), said.append)
    record = Recorder("pairs", PLAN, outbox, history, lambda: {"missed_commits": 0.0}, said.append, Progress(start), lambda *_: None)
    ticker = Ticker(PLAN, Ranks(1, 4), record)
    ticker.start(None, Progress(start))  # type: ignore[arg-type]
    for images in range(start + 4, end + 1, 4):
        stats = {"loss": torch.tensor(losses + images), SKIPPED: torch.tensor(skipped)}
        ticker.after_step(Looked(), Progress(images, float(images)), stats)  # type: ignore[arg-type]
    outbox.leave(10)
    return history, said


def events(file: Path) -> list[Event]:
    """The records of an event file: length, its checksum, data, their checksum (TFRecord)."""
    data, found = file.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return found


def shown(folder: Path) -> list[tuple[int, float]]:
    """Steps and losses that TensorBoard shows: at each START of a session it drops what files before told of its step and later ones."""
    found: list[tuple[int, float]] = []
    for file in sorted(folder.iterdir()):
        for event in events(file):
            if event.HasField("session_log"):
                assert event.session_log.status == event.session_log.START
                found = [(step, value) for step, value in found if step < event.step]
            found += [(event.step, value.simple_value) for value in event.summary.value if value.tag == "pairs/loss"]
    return found


def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    """Killed after the records at 16 and 24, of which a commit at 16 kept the first: what comes after it is told again."""
    train(tmp_path, 0, 24, losses=100.0)
    train(tmp_path, 16, 40, losses=200.0)
    files = list((tmp_path / "tensorboard/pairs").iterdir())
    assert len(files) == 2, "processes that start in the same second must not share a file"
    assert [step for step, _ in shown(tmp_path / "tensorboard/pairs")] == [8, 16, 24, 32, 40]
    assert [value for _, value in shown(tmp_path / "tensorboard/pairs")] == [106.0, 114.0, 222.0, 230.0, 238.0]


def test_a_stage_that_starts_anew_is_shown_anew(tmp_path: Path) -> None:
    train(tmp_path, 0, 16, losses=100.0)
    train(tmp_path, 0, 16, losses=200.0)
    assert shown(tmp_path / "tensorboard/pairs") == [(8, 206.0), (16, 214.0)]


def test_a_record(tmp_path: Path) -> None:
    """Losses are averaged, steps left out are counted; what other hooks measured goes with them."""
    history, said = train(tmp_path, 0, 16, losses=0.0, skipped=1.0)
    assert [(record["images"], record["loss"], record[SKIPPED], record["missed_commits"]) for record in history] == [
        (8, 6, 2, 0),
        (16, 14, 2, 0),
    ]
    assert "skipped_steps 2" in said[0]
    assert "skipped_steps" not in train(tmp_path / "other", 0, 8, losses=0.0)[1][0], "zero is nothing to say"
    lines = (tmp_path / "pairs/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history


def test_an_average_leaves_out_what_is_no_number() -> None:
    """By hand: a phase that was left out in one of two steps, always, and never; times are those of the stage."""
    told: list[dict[str, float]] = []
    ticker = Ticker(PLAN, Ranks(1, 4), lambda last, progress, averages: told.append(averages))
    for images, some in ((4, 5.0), (8, math.nan), (12, math.inf), (16, 3.0)):
        stats = {"some": some, "none": math.nan, "all": images, SKIPPED: 1}
        ticker.after_step(Looked(), Progress(images), {name: torch.tensor(float(value)) for name, value in stats.items()})  # type: ignore[arg-type]
    assert told == [
        {"some": 5, "all": 6, SKIPPED: 2, "d_phase_s": pytest.approx(0.008)},
        {"some": 3, "all": 14, SKIPPED: 2, "d_phase_s": pytest.approx(0.016)},
    ]


class SlowStore(LocalStore):
    """Holds every write back until the gate is open, and notes the paths."""

    gate = threading.Event()
    written: list[tuple[str, bytes]] = []  # noqa: RUF012

    def write(self, path: str, data: bytes) -> None:
        assert self.gate.wait(10)
        self.written.append((path, data))
        if path == "bad":
            raise OSError(28, "No space left\non device")


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlowStore:
    monkeypatch.setattr(SlowStore, "gate", threading.Event())
    monkeypatch.setattr(SlowStore, "written", [])
    return SlowStore(tmp_path)


def test_only_the_newest_content_of_a_file_that_waits_is_written(slow: SlowStore) -> None:
    outbox = Outbox(slow, print)
    outbox.put("first", b"1")
    for number in range(5):
        outbox.put("a", b"%d" % number)
        outbox.put("b", b"%d" % number)
    assert slow.written == []
    slow.gate.set()
    outbox.flush(10)
    assert [write for write in slow.written if write[0] != "first"] == [("a", b"4"), ("b", b"4")]
    outbox.put("a", b"5")
    outbox.leave(10)
    assert slow.written[-1] == ("a", b"5")


def test_a_file_that_cannot_be_written_is_said(slow: SlowStore) -> None:
    slow.gate.set()
    said: list[str] = []
    outbox = Outbox(slow, said.append)
    for path in ("bad", "good"):
        outbox.put(path, b"")
    outbox.leave(10)
    assert said == [f"{slow.uri}/bad could not be written: [Errno 28] No space left on device"]
    assert slow.written[-1] == ("good", b"")


def test_an_error_of_the_thread_is_not_lost(slow: SlowStore) -> None:
    """Here that of telling what went wrong."""
    slow.gate.set()

    def broken(line: str) -> None:
        raise ConnectionError("nobody listens")

    outbox = Outbox(slow, broken)
    outbox.put("bad", b"")
    with pytest.raises(ConnectionError, match="nobody listens"):
        outbox.leave(10)


def test_nobody_waits_longer_than_asked_for_a_storage_that_hangs(slow: SlowStore) -> None:
    said: list[str] = []
    outbox = Outbox(slow, said.append)
    for path in ("first", "second", "third"):
        outbox.put(path, b"")
    outbox.leave(0.1)
    assert said == [f"{slow.uri}: 3 files for people wait for the storage for over 0.1 s; going on without them"]
    slow.gate.set()
    outbox._thread.shutdown()
    assert [path for path, _ in slow.written] == ["first"], "what had not begun is dropped"


def test_damaged_metrics_are_told(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert read_metrics(store, "pairs") == []
    store.write("pairs/metrics.jsonl", b'{"images": 8}\n{"images"')
    with pytest.raises(InputError, match=rf"^{tmp_path}/pairs/metrics\.jsonl is damaged .*; put history\.json .*$"):
        read_metrics(store, "pairs")
