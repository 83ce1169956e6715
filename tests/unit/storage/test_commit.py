"""The commit protocol: a crash at every single operation of the store, damage, and pruning."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from mvgan.config import InputError
from mvgan.storage.commit import Commits, Conflict, Damaged
from mvgan.storage.uri import LocalStore
from tests.unit.storage.hooked import NEW, OLD, Crash, commits, content, crash, newest, once


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
