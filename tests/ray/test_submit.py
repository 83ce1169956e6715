"""As on a cluster: a head that is closed with a token, a pipeline with data and run on S3 submitted, stopped midway, submitted again.

Reference: the run of the same settings in a local folder that nobody stopped.
"""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvgan.storage.commit import Commits
from mvgan.storage.uri import open_store
from tests.ray.head import LAST_S, Head, started
from tests.short_run import SHORT


@pytest.fixture
def head(bucket: str) -> Iterator[Head]:
    """A head that finds the server of `bucket`."""
    with started() as head:
        yield head


def test_a_submitted_job_that_was_stopped_goes_on(head: Head, bucket: str, clips: Path, finished: tuple[Path, str]) -> None:
    """`ray job stop` asks the API what is asked here; its own start would take as long as the rest of the stage."""
    for path in clips.iterdir():
        open_store(f"{bucket}/videos").write(path.name, path.read_bytes())
    command = ["pipeline", *SHORT, "--videos", f"{bucket}/videos", "--storage", f"{bucket}/runs", "--name", "submitted"]
    first = head.submit("--no-wait", "--submission-id", "first", "--", *command)
    assert first.returncode == 0, first.stderr + first.stdout
    run, deadline = open_store(f"{bucket}/runs/submitted"), time.monotonic() + LAST_S
    while not run.exists("pairs/metrics.jsonl"):  # what is measured before the first step
        assert time.monotonic() < deadline, head.job("logs", "first").stdout
        time.sleep(0.1)
    assert head.ask("/api/jobs/first/stop", head.token, "POST")[0] == 200
    assert head.wait("first") == "STOPPED"
    said = head.job("logs", "first").stdout
    told = re.search(r"^error: pairs: stopped by SIGTERM; committed at (\d+) pairs, and the same command goes on from there$", said, re.M)
    assert told is not None, said
    newest = Commits(run, "pairs").newest()
    assert newest is not None and newest.images == int(told[1]) and not newest.meta["complete"]

    again = head.submit("--submission-id", "again", "--", *command)
    assert again.returncode == 0, again.stderr + again.stdout
    assert f"goes on from its commit at {told[1]}" in again.stdout
    assert f"{run.uri}/report.html" in again.stdout and again.stdout.splitlines()[-1] == "again succeeded"
    for name in ("generator", "codes", "latent"):
        assert run.read(f"export/{name}.safetensors") == (finished[0] / f"export/{name}.safetensors").read_bytes(), name
    all_said = said + again.stdout + again.stderr + head.job("list").stdout
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in all_said and head.token not in all_said
