"""`doctor` as a command: what it prints and its exit status, by what an examination has found."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest

import jobs.doctor
from jobs._cli import main
from mvgan.doctor.findings import Finding


WELL = Finding("clock", "n1", "ok", "within 1 s of the head's")
WRONG = Finding("spill disk", "n1", "WRONG", "full", "make room")
UNCHECKED = Finding("/dev/shm", "n1", "not checked", "not seen")


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the verb on a cluster of one node where the given things were found."""

    def call(found: list[Finding], *flags: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["doctor", *flags])
        monkeypatch.setattr(jobs.doctor, "session", lambda resources: nullcontext())
        monkeypatch.setattr(jobs.doctor, "examine", lambda plan: (found, 1))
        try:
            main(jobs.doctor.run, jobs.doctor.Flags, "")
        except SystemExit as stop:
            return int(str(stop.code)), *capsys.readouterr()
        return 0, *capsys.readouterr()

    return call


def test_all_fits(verb: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = verb([WELL])
    assert (status, err) == (0, "")
    assert out.splitlines() == ["ok  clock  n1  within 1 s of the head's", "doctor: nothing is wrong; nodes: 1, workers: 1"]


@pytest.mark.parametrize("other", [WRONG, UNCHECKED])
def test_what_is_wrong_or_unchecked_is_no_pass(other: Finding, verb: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = verb([WELL, other])
    assert status == 1 and other.found in out and other.advice in out
    counts = "1 wrong, 0 not checked" if other is WRONG else "0 wrong, 1 not checked"
    assert err == f"error: doctor: {counts}; the table says what to do\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--answer-s", "4"], "--answer-s is 4.0; give seconds from 5 on"),
        (["--answer-s", "nan"], "--answer-s is nan; give seconds from 5 on"),
        (["--wait-s", "-1"], "--wait-s is -1.0; give seconds from 0 on"),
        (["--workers", "0"], "workers is 0; it must be at least 1"),
        (["--storage", "gs://bucket/runs"], "has the scheme 'gs'; give a local path or s3://bucket/prefix"),
        (["--videos", "s3:/bucket"], "looks like a URI without its two slashes"),
        (["--storage", ""], "--storage is empty"),
        (["--no-such"], "--no-such"),
    ],
)
def test_wrong_input_is_one_line(flags: list[str], said: str, verb: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = verb([WELL], *flags)
    assert (status, out) == (2, "") and said in err and err.count("\n") == 1
