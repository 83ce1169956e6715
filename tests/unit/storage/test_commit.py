"""The commit protocol, by exhaustion: a crash or a rival driver at every single operation of the store."""

import itertools
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from mvgan.config import InputError
from mvgan.storage.commit import Commit, Commits, Conflict, Damaged, Superseded
from mvgan.storage.uri import LocalStore, Store


OLD = {"state.pt": b"old state", "ema.pt": b"old ema"}
NEW = {"state.pt": b"new state", "ema.pt": b"new ema"}


class Crash(Exception):
    """Stands for a SIGKILL."""


class HookedStore(Store):
    """A local store that calls `hook(number of the operation, "before" or "after")` around every operation."""

    def __init__(self, inner: Store, hook: Callable[[int, str], None], count: list[int] | None = None) -> None:
        super().__init__(inner.uri)
        self.inner, self.hook, self.count = inner, hook, count or [0]

    def _call(self, name: str, *args: Any) -> Any:
        number = self.count[0]
        self.count[0] += 1
        self.hook(number, "before")
        result = getattr(self.inner, name)(*args)
        self.hook(number, "after")
        return result

    def read(self, path: str) -> bytes:
        result: bytes = self._call("read", path)
        return result

    def write(self, path: str, data: bytes) -> None:
        self._call("write", path, data)

    def create(self, path: str, data: bytes) -> bool:
        result: bool = self._call("create", path, data)
        return result

    def list(self, prefix: str = "") -> dict[str, int]:
        result: dict[str, int] = self._call("list", prefix)
        return result

    def size(self, path: str) -> int | None:
        result: int | None = self._call("size", path)
        return result

    def delete(self, path: str) -> None:
        self._call("delete", path)

    def at(self, sub: str) -> Store:
        return HookedStore(self.inner.at(sub), self.hook, self.count)

    def open(self, path: str) -> BinaryIO:
        return self.inner.open(path)


def commits(root: Path, hook: Callable[[int, str], None] | None = None) -> Commits:
    store = LocalStore(root)
    return Commits(HookedStore(store, hook) if hook else store, "pairs")


def newest(found: Commits) -> Commit:
    commit = found.newest()
    assert commit is not None
    return commit


def content(found: Commits, commit: Commit) -> dict[str, bytes]:
    return {file: found.read(commit, file) for file in commit.files}


def once(at: int, when: str, act: Callable[[], None]) -> tuple[Callable[[int, str], None], list[bool]]:
    """A hook that acts at one operation, and a list that tells whether it did."""
    done: list[bool] = []

    def hook(number: int, moment: str) -> None:
        if (number, moment) == (at, when):
            done.append(True)
            act()

    return hook, done


def crash() -> None:
    raise Crash


def test_write_and_read(tmp_path: Path) -> None:
    run = commits(tmp_path)
    assert run.newest() is None
    assert run.records() == []
    epoch = run.claim({"host": "a"})
    first = run.write(100, epoch, OLD, {"fid": 3.5})
    second = run.write(200, epoch, NEW, {})
    other = commits(tmp_path)
    assert other.newest() == second
    assert other.records() == [second, first]
    assert content(other, first) == OLD
    assert first.meta == {"fid": 3.5}
    record = json.loads((tmp_path / "pairs/commits/000000000100-00001.json").read_text())
    assert record["format_version"] == 1
    assert json.loads((tmp_path / "pairs/epochs/00001.json").read_text())["owner"] == {"host": "a"}
    with pytest.raises(Conflict):
        run.write(200, epoch, OLD, {})
    assert content(run, newest(run)) == NEW
    assert len(LocalStore(tmp_path).list("pairs/data/")) == 4  # the refused data are gone
    with pytest.raises(ValueError, match="never claimed"):
        run.write(300, epoch + 1, NEW, {})


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_operation_leaves_the_old_or_the_new_state(tmp_path: Path, when: str) -> None:
    crashes = 0
    while True:
        root = tmp_path / str(crashes)
        start = commits(root)
        start.write(100, start.claim({}), OLD, {})
        hook, crashed = once(crashes, when, crash)
        driver = commits(root, hook)
        written = False
        try:
            epoch = driver.claim({})
            driver.write(200, epoch, NEW, {})
            written = True
            driver.prune(keep=1)
        except Crash:
            pass
        found = commits(root)
        state = content(found, newest(found))
        assert state == NEW if written else state in (OLD, NEW)
        assert all(content(found, commit) in (OLD, NEW) for commit in found.records())
        found.write(300, found.claim({}), OLD, {})  # and the run goes on
        assert newest(found).images == 300
        if not crashed:
            break
        crashes += 1
    assert crashes > 20
    assert [commit.images for commit in found.records()] == [300, 200]


@pytest.mark.parametrize("rival_commits", [False, True])
def test_a_rival_claim_at_any_operation_of_a_write(tmp_path: Path, rival_commits: bool) -> None:
    at = 0
    reported = []
    while True:
        root = tmp_path / str(at)
        rival = commits(root)

        def takeover(rival: Commits = rival) -> None:
            epoch = rival.claim({"rival": True})
            if rival_commits:
                rival.write(150, epoch, OLD, {})

        hook, acted = once(at, "before", takeover)
        driver = commits(root)
        epoch = driver.claim({})
        driver.write(100, epoch, OLD, {})
        driver.store = HookedStore(driver.store, hook)
        try:
            driver.write(200, epoch, NEW, {})
            reported.append(True)
            assert 200 in [commit.images for commit in rival.records()]  # a reported commit is never lost
        except Superseded:
            reported.append(False)
        if not acted:
            break
        if rival_commits:
            assert newest(rival).images == 150  # the older epoch never wins over what the newer one wrote
        seen = rival.records()
        with pytest.raises(Superseded):
            driver.write(400, epoch, NEW, {})
        assert rival.records() == seen
        at += 1
    assert len(reported) > 5 and reported == [False] * (len(reported) - 1) + [True]


def test_a_write_at_any_operation_of_a_claim_is_inherited_or_refused(tmp_path: Path) -> None:
    for at in range(100):
        root = tmp_path / str(at)
        driver = commits(root)
        epoch = driver.claim({})
        driver.write(100, epoch, OLD, {})
        outcome: list[bool] = []

        def write(driver: Commits = driver, epoch: int = epoch, outcome: list[bool] = outcome) -> None:
            try:
                driver.write(200, epoch, NEW, {})
                outcome.append(True)
            except Superseded:
                outcome.append(False)

        hook, acted = once(at, "after", write)
        rival = commits(root, hook)
        rival.claim({})
        if not acted:
            break
        assert newest(rival).images in ((200,) if outcome[0] else (100, 200))
    assert at > 3


def test_no_commit_is_reported_and_lost_wherever_both_drivers_are_paused(tmp_path: Path) -> None:
    """The old driver at any operation of its write, while a new one's claim has come to any operation of its own."""
    met = set()
    for at, claimed_to in itertools.product(range(12), range(8)):
        root = tmp_path / f"{at}-{claimed_to}"
        reached, go_on = threading.Event(), threading.Event()

        def pause(number: int, moment: str, at: int = claimed_to, reached: Any = reached, go_on: Any = go_on) -> None:
            if (number, moment) == (at, "before"):
                reached.set()
                assert go_on.wait(60)

        def claim(root: Path = root, pause: Any = pause, reached: Any = reached) -> None:
            commits(root, pause).claim({"rival": True})
            reached.set()

        rival = threading.Thread(target=claim)

        def take_over(rival: threading.Thread = rival, reached: Any = reached) -> None:
            rival.start()
            assert reached.wait(60)

        driver = commits(root)
        epoch = driver.claim({})
        driver.write(100, epoch, OLD, {})
        hook, acted = once(at, "before", take_over)
        driver.store = HookedStore(driver.store, hook)
        try:
            driver.write(200, epoch, NEW, {})
            reported = True
        except Superseded:
            reported = False
        go_on.set()
        if acted:
            rival.join()
            met.add((at, claimed_to))
        assert newest(commits(root)).images == 200 or not reported, (at, claimed_to)
    assert len(met) > 50


def test_data_written_before_a_newer_claim_does_not_win(tmp_path: Path) -> None:
    """The paused driver: all its data are there, and it even makes its record after the other one has committed."""
    driver, rival = commits(tmp_path), commits(tmp_path)
    old = driver.claim({})
    driver.write(100, old, OLD, {})
    late = driver.write(900, old, NEW, {})
    record = tmp_path / f"pairs/commits/{late.name}.json"
    kept = record.read_bytes()
    record.unlink()
    new = rival.claim({})
    rival.write(200, new, OLD, {})
    record.write_bytes(kept)
    assert [commit.images for commit in rival.records()] == [200, 100]
    assert newest(driver).images == 200
    third = commits(tmp_path)
    third.claim({})
    assert [commit.images for commit in third.records()] == [200, 100]


def test_later_epochs_come_first(tmp_path: Path) -> None:
    run = commits(tmp_path)
    run.write(300, run.claim({}), OLD, {})
    run.write(250, run.claim({}), NEW, {})  # a driver that went back to an older state
    assert [commit.images for commit in run.records()] == [250, 300]
    assert content(run, newest(run)) == NEW


def _flip(path: Path, at: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_flip, lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])])
@pytest.mark.parametrize("what", ["data", "record"])
def test_a_damaged_newest_commit_is_passed_over(
    tmp_path: Path, damage: Callable[[Path], None], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = commits(tmp_path)
    epoch = run.claim({})
    run.write(100, epoch, OLD, {})
    last = run.write(200, epoch, NEW, {})
    record = tmp_path / f"pairs/commits/{last.name}.json"
    damage(tmp_path / "pairs" / last.files["ema.pt"]["path"] if what == "data" else record)
    with caplog.at_level(logging.WARNING):
        assert newest(run).images == 100
    if record.exists():  # a record that is gone leaves nothing to warn of
        assert last.name in caplog.text
    if what == "data":
        with pytest.raises(Damaged):
            run.read(last, "ema.pt")


def test_no_altered_byte_of_a_record_is_believed(tmp_path: Path) -> None:
    run = commits(tmp_path)
    epoch = run.claim({})
    run.write(100, epoch, OLD, {})
    last = run.write(200, epoch, NEW, {"fid": 3.5})
    record = tmp_path / f"pairs/commits/{last.name}.json"
    for at in range(0, record.stat().st_size, 5):
        _flip(record, at)
        assert [commit.images for commit in run.records()] in ([100], [200, 100])
        assert run.newest() in (last, run.records()[-1])  # white space may change
        _flip(record, at)


def test_when_all_are_damaged_nothing_starts_over_by_itself(tmp_path: Path) -> None:
    run = commits(tmp_path)
    only = run.write(100, run.claim({}), OLD, {})
    _flip(tmp_path / "pairs" / only.files["state.pt"]["path"])
    with pytest.raises(InputError, match="all 1 commits are damaged"):
        run.newest()


def test_a_damaged_list_of_inherited_records_is_told(tmp_path: Path) -> None:
    run = commits(tmp_path)
    run.write(100, run.claim({}), OLD, {})
    _flip(tmp_path / "pairs/epochs/00001.inherits.json")
    with pytest.raises(InputError, match=r"inherits\.json is damaged"):
        run.newest()


def test_other_format_versions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = commits(tmp_path)
    epoch = run.claim({})
    with monkeypatch.context() as patch:
        patch.setattr("mvgan.storage.commit.FORMAT_VERSION", 2)
        patch.setattr("mvgan.storage.commit._check_version", lambda where, version: None)
        run.write(100, epoch, OLD, {})
    with pytest.raises(InputError, match="format_version 2"):
        run.newest()


def test_prune_keeps_the_newest_that_verify(tmp_path: Path) -> None:
    run = commits(tmp_path)
    made = [run.write(images, run.claim({}), NEW, {}) for images in (100, 200, 300, 400, 500, 600)]
    for damaged in (made[5], made[3]):
        _flip(tmp_path / "pairs" / damaged.files["state.pt"]["path"])
    run = commits(tmp_path)  # one that has not seen them whole
    removed = run.prune(keep=2, keep_names=[made[0].name])
    assert removed == [made[1].name]
    assert run.newest() == made[4]
    assert [commit.images for commit in run.records()] == [600, 500, 400, 300, 100]
    left = {path.split("/")[1][:18] for path in LocalStore(tmp_path / "pairs").list("data/")}
    assert left == {commit.name for commit in made} - set(removed)
    assert run.prune(keep=2, keep_names=[made[0].name]) == []
    assert run.prune(keep=1) == [made[3].name, made[2].name, made[0].name]
    with pytest.raises(ValueError, match="at least one"):
        run.prune(keep=0)


def test_a_reader_that_is_slower_than_the_pruning_finds_the_newest(tmp_path: Path) -> None:
    driver = commits(tmp_path)
    epoch = driver.claim({})
    driver.write(100, epoch, OLD, {})

    def go_on() -> None:
        driver.write(200, epoch, NEW, {})
        driver.write(300, epoch, NEW, {})
        driver.prune(keep=1)

    for at in range(4):
        hook, acted = once(at, "after", go_on if at == 2 else lambda: None)
        reader = commits(tmp_path, hook)
        assert reader.newest() is not None
        assert acted
    assert newest(reader).images == 300


def test_silent_loss_of_an_upload_is_noticed(tmp_path: Path) -> None:
    class Forgetful(LocalStore):
        def write(self, path: str, data: bytes) -> None:
            super().write(path, b"" if path.endswith("ema.pt") else data)

        def at(self, sub: str) -> "Forgetful":
            return Forgetful(f"{self.uri}/{sub}")

    run = Commits(Forgetful(tmp_path), "pairs")
    with pytest.raises(Damaged, match=r"ema\.pt has 0 bytes after writing 7"):
        run.write(100, run.claim({}), NEW, {})
    assert run.newest() is None
