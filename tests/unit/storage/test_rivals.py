"""Two drivers of one run at any single operation of each: no reported commit is lost, and the older one never wins."""

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest

from mvgan.storage.commit import Commits, Superseded
from tests.unit.storage.hooked import NEW, OLD, HookedStore, commits, newest, once


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


def test_a_driver_that_starts_its_workers_again_does_not_win_over_a_newer_one(tmp_path: Path) -> None:
    """The newer one comes at any operation of the claim of the next epoch."""
    outcomes = []
    for at in range(100):
        driver, rival = commits(tmp_path / str(at)), commits(tmp_path / str(at))
        epoch = driver.claim({})
        driver.write(100, epoch, OLD, {})
        hook, acted = once(at, "before", lambda rival=rival: rival.write(200, rival.claim({}), NEW, {}))
        driver.store = HookedStore(driver.store, hook)
        try:
            epoch = driver.claim({}, after=epoch)
            outcomes.append(True)
        except Superseded:
            outcomes.append(False)
        if not acted:
            break
        with pytest.raises(Superseded):
            driver.write(300, epoch, OLD, {})
        assert newest(rival).images == 200
    assert outcomes[:2] == [False, False] and outcomes[-1]
    driver = commits(tmp_path / str(at))  # without the hook
    with pytest.raises(Superseded):
        driver.write(300, epoch - 1, OLD, {})  # a worker of the start before
    assert driver.write(300, epoch, OLD, {}).epoch == 2


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
