"""Commits on S3 by exhaustion: the connection is cut at every single request of a commit.

References: what was committed before the cut, what was to be committed, and the objects that the server really holds.
"""

import contextlib
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from mvgan.storage.commit import Commits
from mvgan.storage.uri import open_store
from tests.s3.proxy import FaultProxy, Rule
from tests.unit.storage.hooked import content, newest


ROOT = Path(__file__).parents[2]
OLD = {"state.pt": b"old state" * 1000, "ema.pt": b"old ema"}
NEW = {"state.pt": b"new state" * 1000, "ema.pt": b"new ema"}
LARGE = {"state.pt": b"new state" * 2**20, "ema.pt": b"new ema"}
"""Its first file goes to S3 as an upload in parts."""
CUTS = {
    "reset": [Rule("reset")],
    "503": [Rule("status", status=503)],
    "lost acknowledgement": [Rule("lost_ack", count=1), Rule("reset")],
}
"""What becomes of a request and all after it: for a driver that never hears from the server again, the end."""


def cut(kind: str, at: int) -> list[Rule]:
    """The rules of a cut that spare the first `at` requests."""
    first, *rest = CUTS[kind]
    return [Rule(first.fault, skip=at, count=first.count), *(Rule(rule.fault, skip=at) for rule in rest)]


def commits(uri: str) -> Commits:
    return Commits(open_store(uri), "pairs")


def requests_of_a_commit(proxy: FaultProxy, bucket: str, new: dict[str, bytes]) -> int:
    """How many requests the claim of an epoch and a commit of `new` make, where a commit is there already."""
    found = commits(f"{bucket}/counted")
    found.write(100, found.claim({}), OLD, {})
    proxy.requests(clear=True)
    found.write(200, found.claim({}), new, {})
    return len(proxy.requests())


@pytest.mark.parametrize("kind", CUTS)
@pytest.mark.parametrize(("new", "least"), [(NEW, 12), (LARGE, 15)], ids=["small", "in parts"])
@pytest.mark.usefixtures("impatient")
def test_a_cut_at_any_request_leaves_the_old_or_the_new_state(
    new: dict[str, bytes], least: int, kind: str, bucket: str, fault_proxy: FaultProxy
) -> None:
    number = requests_of_a_commit(fault_proxy, bucket, new)
    assert number >= least
    outcomes = []
    for at in range(number + 1):
        driver = commits(f"{bucket}/{at:03d}")
        driver.write(100, driver.claim({}), OLD, {})
        fault_proxy.fail(*cut(kind, at))
        claimed = None
        with contextlib.suppress(ConnectionError):  # and no other: a driver that is cut off has no rival to blame
            claimed = driver.write(200, driver.claim({}), new, {})
        fault_proxy.heal()
        found = newest(driver)
        state = content(driver, found)
        assert state in (OLD, new), at
        assert all(content(driver, commit) in (OLD, new) for commit in driver.records()), at
        if claimed:
            assert found == claimed and state == new, at
        outcomes.append((claimed is not None, state == new))
        again = driver.write(300, driver.claim({}), NEW, {})
        assert newest(driver) == again and content(driver, again) == NEW, at
    assert outcomes[0] == (False, False) and outcomes[-1] == (True, True)
    # Once a commit is there, it stays: the outcomes go from old to there unheard to claimed.
    assert outcomes == sorted(outcomes)
    print(f"commit, {kind} at each of {number} requests: 0 violations")


@pytest.mark.usefixtures("impatient")
def test_a_cut_at_any_request_of_removing_old_commits_leaves_whole_ones(bucket: str, fault_proxy: FaultProxy) -> None:
    """Record first: what is left without its record is no commit, and what has a record is whole."""
    full = commits(f"{bucket}/counted")
    for images in (100, 200, 300, 400):
        full.write(images, full.claim({}), OLD, {})
    fault_proxy.requests(clear=True)
    assert len(full.prune()) == 2
    number = len(fault_proxy.requests())
    assert number >= 8
    left = []
    for at in range(number):
        run = commits(f"{bucket}/{at:03d}")
        for images in (100, 200, 300, 400):
            run.write(images, run.claim({}), OLD, {})
        fault_proxy.fail(Rule("reset", skip=at))
        with pytest.raises(ConnectionError):
            run.prune()
        fault_proxy.heal()
        fresh = commits(f"{bucket}/{at:03d}")
        kept = fresh.records()
        assert [commit.images for commit in kept][:2] == [400, 300]
        assert all(content(fresh, commit) == OLD for commit in kept), at
        left.append(len(kept))
        fresh.prune()
        assert [commit.images for commit in fresh.records()] == [400, 300]
    assert left == sorted(left, reverse=True) and set(left) == {4, 3, 2}
    print(f"removal, reset at each of {number} requests: 0 violations")


@pytest.mark.parametrize("match", ["/epochs/00001.json", "/epochs/00001.inherits.json", "/commits/"])
def test_a_lost_acknowledgement_is_recognised(match: str, bucket: str, fault_proxy: FaultProxy) -> None:
    lost = Rule("lost_ack", method="PUT", match=match, count=1)
    fault_proxy.fail(lost)
    driver = commits(f"{bucket}/run")
    epoch = driver.claim({})
    commit = driver.write(100, epoch, NEW, {})
    assert lost.reached.is_set()
    assert epoch == 1, "the driver took its own claim for another's"
    assert newest(driver) == commit and content(driver, commit) == NEW


def test_bit_rot_of_the_newest_falls_back_and_says_so(bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    run = commits(f"{bucket}/run")
    epoch = run.claim({})
    older = run.write(100, epoch, OLD, {})
    rotten = run.write(200, epoch, NEW, {})
    key = f"run/pairs/{rotten.files['state.pt']['path']}"
    altered = bytearray(NEW["state.pt"])
    altered[4321] ^= 1
    boto3.client("s3").put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=bytes(altered))
    with caplog.at_level(logging.WARNING):
        assert newest(run) == older
    assert f"{rotten.name} is passed over for an older one" in caplog.text and key in caplog.text
    assert content(run, older) == OLD


DRIVER = """
import sys
from mvgan.storage.commit import Commits, Superseded
from mvgan.storage.uri import open_store
for uri in sys.stdin:
    commits = Commits(open_store(uri.strip()), "pairs")
    epoch = commits.claim({"who": "the old driver"})
    commits.write(100, epoch, {"state.pt": b"before"}, {})
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        commits.write(200, epoch, {"state.pt": b"of the old driver"}, {})
        print("done", flush=True)
    except Superseded:
        print("superseded", flush=True)
"""


class OldDriver:
    """A process that commits once, then once more on demand, for each URI it is told."""

    def __init__(self) -> None:
        line = [sys.executable, "-c", DRIVER]
        self.process = subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def state(self) -> str:
        """R, S, T and so on, as the kernel says."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def requests_of_a_write(proxy: FaultProxy, bucket: str) -> int:
    found = commits(f"{bucket}/counted")
    epoch = found.claim({})
    proxy.requests(clear=True)
    found.write(100, epoch, {"state.pt": b""}, {})
    return len(proxy.requests())


def test_a_paused_driver_that_comes_back_never_wins(bucket: str, fault_proxy: FaultProxy) -> None:
    """Twenty times the old driver is stopped within a commit, in each request in turn, and a new one takes over meanwhile.

    Of two turns at the same request, it reaches the server before the new driver comes in one, and long after in the other.
    """
    number = requests_of_a_write(fault_proxy, bucket)
    assert 5 <= number <= 10
    old = OldDriver()
    try:
        outcomes = [pause(old, f"{bucket}/{turn:02d}", fault_proxy, turn // 2 % number, late=turn % 2 == 1) for turn in range(20)]
    finally:
        old.process.kill()
        old.process.wait()
    # Done only before the new one came; a record whose commit is not reported may count all the same.
    assert {"superseded", "done"} == set(outcomes) and outcomes.count("superseded") > 10, outcomes
    print(f"{len(outcomes)} pauses: 0 wins, {outcomes.count('superseded')} told that they are superseded")


def pause(old: OldDriver, uri: str, proxy: FaultProxy, request: int, late: bool) -> str:
    """Stop the old driver at a request of its commit and let another take over; returns what the old one thinks in the end."""
    old.tell(uri)
    assert old.hear() == "ready"
    held = Rule("hold", skip=request, count=1)
    proxy.fail(held)
    old.tell("go on")
    assert held.reached.wait(30)
    old.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: old.state() == "T")
    if not late:
        held.release()
        assert held.answered.wait(30)
    new = commits(uri)
    taken = newest(new).images
    mine = new.write(300, new.claim({"who": "the new driver"}), {"state.pt": b"of the new driver"}, {})
    held.release()
    old.process.send_signal(signal.SIGCONT)
    said = old.hear()
    assert newest(new) == mine, "the old driver has won"
    assert said == "superseded" or (said == "done" and taken == 200)
    assert [commit.images for commit in new.records()] == ([300, 200, 100] if taken == 200 else [300, 100])
    return said


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)
