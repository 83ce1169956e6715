"""One driver at a time, with real processes: refused while another lives, and let in at once when it has died."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mvgan.config import InputError
from mvgan.storage import holder
from mvgan.storage.holder import held, holder_of, refuse_held
from mvgan.storage.uri import LocalStore


ROOT = Path(__file__).parents[3]
DRIVER = """
import sys, time
from mvgan.storage import holder
from mvgan.storage.uri import open_store
holder.BEAT_S = 0.1
if len(sys.argv) > 2:
    holder._machine = lambda: sys.argv[2]
with holder.held(open_store(sys.argv[1]), "train"):
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "BEAT_S", 0.1)


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def driver(stack: ExitStack, folder: Path, *machine: str) -> subprocess.Popen[str]:
    """Another process that holds `folder`."""
    command = [sys.executable, "-c", DRIVER, str(folder), *machine]
    process = stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
    stack.callback(process.kill)
    assert process.stdout is not None and process.stdout.readline() == "holds\n"
    return process


def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, for a minute at most."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def claims(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "drivers").glob("?????.json"))


def test_a_second_driver_is_refused_and_told_of_the_first(tmp_path: Path, processes: ExitStack) -> None:
    first = driver(processes, tmp_path)
    claim = json.loads((tmp_path / "drivers/00001.json").read_text())
    with pytest.raises(InputError) as refusal, held(LocalStore(tmp_path), "pairs"):
        pass
    assert str(refusal.value) == (
        f"{tmp_path} is held by `train` on host {os.uname().nodename}, pid {first.pid}, since {claim['since']}; "
        f"wait until it has ended, or stop it there (kill {first.pid})"
    )
    os.kill(first.pid, signal.SIGSTOP)  # a paused driver lives
    with pytest.raises(InputError, match=f"pid {first.pid}"):
        refuse_held(LocalStore(tmp_path))
    assert claims(tmp_path) == ["00001.json"]


def test_a_killed_driver_is_followed_at_once(tmp_path: Path, processes: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    first = driver(processes, tmp_path)
    first.kill()  # and not waited for: it stays in the process table as a zombie
    while Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    with held(LocalStore(tmp_path), "pairs"):
        assert "watching" not in caplog.text
        assert f"was held by `train` on host {os.uname().nodename}, pid {first.pid}" in caplog.text
        assert claims(tmp_path) == ["00001.json", "00002.json"]


def test_another_process_with_the_same_number_is_not_the_holder(tmp_path: Path) -> None:
    with held(LocalStore(tmp_path), "pairs"):
        pass
    (tmp_path / "drivers/00001.end.json").unlink()
    path = tmp_path / "drivers/00001.json"
    claim = json.loads(path.read_text())
    path.write_text(json.dumps(claim | {"pid": os.getppid(), "pid_start": 1}))
    with held(LocalStore(tmp_path), "pairs"):
        assert len(claims(tmp_path)) == 2
    path = tmp_path / "drivers/00003.json"
    path.write_text(json.dumps(claim | {"number": 3, "pid": os.getppid(), "pid_start": holder._start_of(os.getppid())}))
    with pytest.raises(InputError, match=f"pid {os.getppid()}"), held(LocalStore(tmp_path), "pairs"):
        pass


def test_a_driver_on_another_machine_is_watched(tmp_path: Path, processes: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    """The other machine is one by name only; its process table is not looked at."""
    first = driver(processes, tmp_path, "another boot of another machine")
    with pytest.raises(InputError, match=f"pid {first.pid}"), held(LocalStore(tmp_path), "pairs", silence_s=60):
        pass
    first.kill()
    first.wait()
    caplog.clear()
    start = time.monotonic()
    with held(LocalStore(tmp_path), "pairs"):
        assert time.monotonic() - start >= 0.3
    assert "watching for 0 s whether it is alive" in caplog.text
    assert "has died; going on in its place" in caplog.text


def test_a_driver_that_ended_is_followed_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(7):
        with held(LocalStore(tmp_path), "pairs"):
            assert refused(tmp_path)
        assert refuse_held(LocalStore(tmp_path)) > 0
    assert caplog.text == ""
    assert claims(tmp_path) == ["00005.json", "00006.json", "00007.json"]
    numbers = {path.name[:5] for path in (tmp_path / "drivers").iterdir()}
    assert numbers == {"00005", "00006", "00007"}


def refused(folder: Path) -> bool:
    try:
        refuse_held(LocalStore(folder))
    except InputError:
        return True
    return False


def test_of_simultaneous_newcomers_one_is_let_in(tmp_path: Path) -> None:
    barrier, leave = threading.Barrier(8), threading.Event()
    outcomes: list[str] = []

    def note(outcome: str) -> None:
        outcomes.append(outcome)
        if len(outcomes) == 8:
            leave.set()

    def newcomer() -> None:
        barrier.wait()
        try:
            with held(LocalStore(tmp_path), "pairs"):
                note("in")
                leave.wait(60)
        except InputError:
            note("refused")

    threads = [threading.Thread(target=newcomer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["in", *["refused"] * 7]


def test_one_who_paused_before_its_claim_does_not_take_an_old_number(tmp_path: Path) -> None:
    class Slow(LocalStore):
        others = 0

        def create(self, path: str, data: bytes) -> bool:
            while Slow.others < 5:  # meanwhile five come and go, and the first numbers are removed
                Slow.others += 1
                with held(LocalStore(tmp_path), "other"):
                    pass
            return super().create(path, data)

    with held(Slow(tmp_path), "slow"):
        assert claims(tmp_path) == ["00004.json", "00005.json", "00006.json"]
        assert json.loads((tmp_path / "drivers/00006.json").read_text())["what"] == "slow"


def test_a_store_that_cannot_be_written_does_not_end_the_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(LocalStore):
        down = True

        def write(self, path: str, data: bytes) -> None:
            if Failing.down:
                raise OSError(28, "No space left on device")
            super().write(path, data)

    beat = tmp_path / "drivers/00001.beat.json"
    with held(Failing(tmp_path), "pairs"):
        until(lambda: "No space left" in caplog.text)
        assert not beat.exists()
        Failing.down = False
        until(beat.exists)
        assert json.loads(beat.read_text())["count"] > 1
    assert (tmp_path / "drivers/00001.end.json").exists()


def test_a_holder_says_so_when_it_was_overtaken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), held(LocalStore(tmp_path), "pairs"):
        claim = json.loads((tmp_path / "drivers/00001.json").read_text())
        (tmp_path / "drivers/00002.json").write_text(json.dumps(claim | {"what": "video", "host": "elsewhere", "pid": 7}))
        until(lambda: "taken over" in caplog.text)
        time.sleep(0.3)  # it says so once
    assert caplog.text.count("has been taken over by `video` on host elsewhere, pid 7") == 1


def test_who_holds_a_folder_is_seen_at_one_look(tmp_path: Path, processes: ExitStack) -> None:
    """Of a driver at work, one that was killed, and one that left; the times of files are set as in the minutes after."""
    store = LocalStore(tmp_path)
    assert holder_of(store) is None
    first = driver(processes, tmp_path)
    until(lambda: (held_by := holder_of(store)) is not None and held_by.at_work)
    found = holder_of(store)
    assert found is not None and not found.left
    assert found.what == "train" and f"pid {first.pid}" in found.who
    first.kill()
    first.wait()
    for file in (tmp_path / "drivers").iterdir():
        os.utime(file, (0, time.time() - 300))
    found = holder_of(store)
    assert found is not None and not found.at_work and not found.left and found.silent_s == pytest.approx(300, abs=30)
    with held(store, "pairs"):
        pass
    found = holder_of(store)
    assert found is not None and (found.what, found.left, found.at_work) == ("pairs", True, False)


def test_a_damaged_claim_is_told(tmp_path: Path) -> None:
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers/00001.json").write_text("{")
    with pytest.raises(InputError, match=r"drivers/00001\.json is damaged"), held(LocalStore(tmp_path), "pairs"):
        pass
