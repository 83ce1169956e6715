"""Removing leftovers and refusing a second driver, on the real server: ages, pages and listings are its own."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

import jobs.gc
from mvgan.config import InputError
from mvgan.storage.holder import held
from mvgan.storage.uri import open_store
from tests.unit.storage.test_gc import newest, run_with_leftovers


ROOT = Path(__file__).parents[2]
MANY = 130
"""More objects than this server lists in a page."""


def test_leftovers_are_removed_over_pages_and_uploads_when_old(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder, left = run_with_leftovers(f"{bucket}/run")
    for number in range(MANY):
        folder.store.write(f"pairs/data/000000000300-00001-{number:08x}/state.pt", b"x")
    client, key = boto3.client("s3"), "run/pairs/data/y/state.pt"
    name = bucket.removeprefix("s3://")
    upload = client.create_multipart_upload(Bucket=name, Key=key)["UploadId"]
    client.upload_part(Bucket=name, Key=key, UploadId=upload, PartNumber=1, Body=bytes(5 * 2**20))
    jobs.gc.run(jobs.gc.Flags(run=folder.uri))
    assert f"gc: removed {len(left) + MANY} leftovers of {sum(left.values()) + MANY} bytes" in capsys.readouterr().out
    assert len(client.list_multipart_uploads(Bucket=name)["Uploads"]) == 1, "it may be alive"
    jobs.gc.run(jobs.gc.Flags(run=folder.uri, older_than_h=0))
    assert "removed 5242880 bytes: pairs/data/y/state.pt (unfinished upload)" in capsys.readouterr().out
    assert "Uploads" not in client.list_multipart_uploads(Bucket=name)
    assert newest(folder) == [200, 100, 200, 100]


HOLDER = """
import sys
from mvgan.storage.holder import held
from mvgan.storage.uri import open_store
with held(open_store(sys.argv[1]), "pairs"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_second_driver_is_refused_and_told_of_the_first(bucket: str) -> None:
    store = open_store(f"{bucket}/run")
    line = [sys.executable, "-c", HOLDER, store.uri]
    with subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None and first.stdout.readline() == "held\n"
            who = rf"{re.escape(store.uri)} is held by `pairs` on host \S+, pid {first.pid}, since "
            with pytest.raises(InputError, match=who), held(store, "pairs"):
                pass
        finally:
            first.send_signal(signal.SIGKILL)
    with held(store, "pairs"):  # the first has died
        assert [path for path in store.list("drivers/") if path.endswith("2.json")]
