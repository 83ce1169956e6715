"""What is wrong by given measures: each fault alone, at its bounds, and how findings of many nodes become a table."""

import pytest

from mvgan.doctor.facts import OWN_CODE, Access, Disk, Refusal
from mvgan.doctor.findings import (
    CLOCK_S,
    SPILL_SHARE,
    Finding,
    access,
    clock,
    exchange,
    fits,
    gpus,
    merged,
    same_versions,
    shared_memory,
    spill_disk,
    table,
)


GB = 10**9
DRIVER = {"python": "3.11.7", "av": "18.1.0", OWN_CODE: "0123456789ab"}


def test_versions() -> None:
    (same,) = same_versions("a", DRIVER, DRIVER)
    assert same.state == "ok" and "av 18.1.0" in same.found
    other, missing = same_versions("a", {**DRIVER, "av": "17.0.0", OWN_CODE: "ba9876543210"}, DRIVER)
    assert (other.state, other.found) == ("WRONG", "av 17.0.0, the driver has 18.1.0") and "PYTHONPATH" in other.advice
    assert missing.found.startswith("mvgan's code ba98") and "--working-dir" in missing.advice
    assert [found.found[:7] for found in same_versions("a", {}, {"av": "1"})] == ["av none"]


@pytest.mark.parametrize(
    ("total", "folder", "state"),
    [(20 * GB, "/dev/shm", "ok"), (10 * GB, "/dev/shm", "ok"), (10 * GB - 1, "/dev/shm", "WRONG"), (20 * GB, "/tmp", "WRONG")],
)
def test_shared_memory(total: int, folder: str, state: str) -> None:
    found = shared_memory("a", Disk("/dev/shm", total, total), folder, 10 * GB)
    assert found.state == state and bool(found.advice) == (state == "WRONG") and f"10 GB in {folder}" in found.found


def test_spill_disk() -> None:
    """Ray's own bound; and a disk with room that takes no file."""
    at = round((1 - SPILL_SHARE) * 100 * GB)
    assert spill_disk("a", Disk("/spill", 100 * GB, at + 1)).state == "ok"
    full = spill_disk("a", Disk("/spill", 100 * GB, at - 1))
    assert full.state == "WRONG" and "/spill: 5 GB free of 100 GB" in full.found and "95%" in full.advice
    refused = spill_disk("a", Disk("/spill", 100 * GB, 90 * GB, "Read-only file system"))
    assert refused.state == "WRONG" and refused.found.endswith("Read-only file system")
    assert spill_disk("a", Disk("/spill", 0, 0, "No such file or directory")).state == "WRONG"


@pytest.mark.parametrize(
    ("is_head", "by_head", "by_storage", "state"),
    [
        (False, 0.0, 0.4, "ok"),
        (False, None, -CLOCK_S, "ok"),
        (False, 0.0, -CLOCK_S - 1, "WRONG"),  # all are off alike
        (False, 1200.0, 0.4, "ok"),  # it is the head that is off
        (True, 0.0, 1200.0, "WRONG"),
        (False, 1200.0, None, "WRONG"),
        (False, None, None, "not checked"),
        (True, 0.0, None, "told"),
    ],
)
def test_clock(is_head: bool, by_head: float | None, by_storage: float | None, state: str) -> None:
    assert clock("a", is_head, by_head, by_storage).state == state


def test_access() -> None:
    (well,) = access("storage", "a", Access("s3://b/runs", 0.1, 0.0123))
    assert (well.state, well.found) == ("ok", "s3://b/runs, 12.3 ms for a request")
    refusal = Refusal(("write", "delete", "delete"), "access denied", "grant it")
    wrong, left = access("storage", "a", Access("s3://b/runs", refusals=(refusal,), left=("s3://b/runs/x",)))
    assert (wrong.state, wrong.found, wrong.advice) == ("WRONG", "s3://b/runs: write and delete: access denied", "grant it")
    assert left.state == "WRONG" and "s3://b/runs/x could not be removed" in left.found
    (skipped,) = access("storage", "a", Access("s3://b/runs", 1200.0, skipped="by this clock"))
    assert skipped.state == "not checked" and "by this clock" in skipped.found


def test_gpus() -> None:
    assert gpus("a", 8, 8).state == "ok" and gpus("a", 8, 4).state == "ok"
    assert gpus("a", 0, 8).found == "torch sees 0 of the 8 that Ray gives out"


def test_exchange() -> None:
    """A ring of n sends 2 (n - 1) / n of the bytes over each link."""
    found = exchange(4, {4096: 0.0005, 64 * 2**20: 0.1})
    assert found.state == "told" and "4.1 KB in 0.50 ms, 67.1 MB in 100 ms, 1.01 GB/s" in found.found
    assert exchange(2, {4096: 0.0005, 64 * 2**20: 64 * 2**20 / 9.9e6}).state == "WRONG"


def test_only_ok_and_told_are_a_pass() -> None:
    found = {state: Finding("check", "a", state, "") for state in ("ok", "told", "not checked", "WRONG")}
    assert fits([found["ok"], found["told"]])
    assert not fits([found["ok"], found["not checked"]]) and not fits([found["ok"], found["WRONG"]])


def test_alike_findings_become_one_line() -> None:
    """Of what is well the worst is shown; of what is wrong each that differs."""
    well = [Finding("storage", f"n{i}", "ok", f"{i} ms", weight=i) for i in range(9)]
    (one,) = merged(well, 9)
    assert (one.where, one.found) == ("all 9 nodes", "8 ms (n8)")
    (some,) = merged(well[:5], 9)
    assert some.where == "5 nodes"
    alike = [Finding("storage", f"n{i}", "WRONG", "refused", "grant it") for i in range(4)]
    other = Finding("storage", "n7", "WRONG", "no bucket", "make it")
    first, second = merged([*alike, other], 9)
    assert (first.where, first.found, first.advice) == ("4 nodes, as n0", "refused", "grant it") and second == other
    assert merged(alike[:2], 9)[0].where == "n0 and n1"


def test_table() -> None:
    lines = table([Finding("clock", "n1", "WRONG", "1200 s ahead", "set it"), Finding("versions", "all 3 nodes", "ok", "python 3")])
    assert lines == [
        "WRONG  clock     n1           1200 s ahead",
        "       -> set it",
        "ok     versions  all 3 nodes  python 3",
    ]
