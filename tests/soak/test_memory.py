"""A batch that the machine has no memory for: Ray's memory monitor kills the worker, and one line says what to lower."""

import re
from pathlib import Path

import pytest

from tests.short_run import run


ROOM = 3 * 2**30
"""Memory left to Ray and its workers in bytes; the batch takes more."""


def used_share() -> float:
    """The share of this machine's memory that is in use once ROOM is."""
    found = dict(re.findall(r"^(\w+): +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE))
    return 1 - (int(found["MemAvailable"]) * 1024 - ROOM) / (int(found["MemTotal"]) * 1024)


def test_a_batch_too_large_is_told(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if used_share() > 0.95:
        pytest.skip(f"the machine has less than {ROOM / 2**30:g} GiB free beside what is in use")
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{used_share():.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "50")
    large = ("--pairs.batch", "16384", "--pairs.group", "64", "--pairs.evaluations", "0")
    done = run("--data", str(shards), "--storage", str(tmp_path), "--name", "large", *large, job="pairs")
    assert done.returncode == 1, done.stderr + done.stdout
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"error: pairs: Ray's memory monitor killed .* lower --pairs.batch, .*--resolution.*", last), done.stderr
    assert done.stdout.count("starting the workers again from the newest commit") == 1, "once with the same config"
    assert "Traceback" not in done.stderr + done.stdout
