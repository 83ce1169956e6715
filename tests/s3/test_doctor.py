"""What `doctor` tells of rights on a real server, one taken away at a time, and that it leaves nothing there.

Reference: the bucket's policy, and what the bucket's owner, another user, sees in it.
"""

import dataclasses
from datetime import UTC, datetime, timedelta

import boto3
import pytest

from mvgan.doctor.facts import Access, begin, new_folder, remove, try_runs, try_videos
from mvgan.storage import endure
from tests.s3.server import S3Server
from tests.s3.strangers import RIGHTS, Stranger


LONGEST_S = 20.0
TOLD = {
    "list": {"list"},
    "read": {"read", "read what the driver wrote", "conditional put"},  # who put the object that is there is told by reading it
    "write": {"write", "conditional put"},
    "delete": {"delete"},
}
"""What cannot be done without a right."""


@pytest.fixture
def stranger(s3_server: S3Server, bucket: str) -> Stranger:
    return Stranger(s3_server)


def tried(uri: str) -> Access:
    """As the driver and one node do it, up to the removal."""
    folder = new_folder()
    begun = begin(uri, folder, LONGEST_S)
    found = try_runs(uri, folder, "node", not begun.refusals, LONGEST_S)
    left = remove(uri, folder, [], LONGEST_S)
    return dataclasses.replace(found, left=found.left + left)


def refused(found: Access) -> set[str]:
    return {what for refusal in found.refusals for what in refusal.what}


def test_with_all_rights_nothing_is_refused_and_nothing_left(stranger: Stranger) -> None:
    name = stranger.bucket({"": list(RIGHTS)})
    found = tried(f"s3://{name}/runs/mine")
    assert refused(found) == set() and not found.left and not found.skipped
    assert found.ahead_s is not None and abs(found.ahead_s) < 5 and found.round_trip_s is not None and 0 < found.round_trip_s < LONGEST_S
    assert stranger.keys(name) == []


@pytest.mark.parametrize("right", RIGHTS)
def test_a_right_that_is_missing_is_named(right: str, stranger: Stranger) -> None:
    name = stranger.bucket({"": [other for other in RIGHTS if other != right]}, denied=[right])
    found = tried(f"s3://{name}/runs")
    assert refused(found) == TOLD[right]
    assert all("access denied" in refusal.reason and refusal.advice for refusal in found.refusals)
    kept = [f"s3://{name}/{key}" for key in stranger.keys(name)]
    assert set(kept) <= set(found.left) and len(kept) == (3 if right == "delete" else 0)


def test_rights_on_another_prefix_do_not_count(stranger: Stranger) -> None:
    name = stranger.bucket({"": ["list"], "/runs": ["read", "write", "delete"]})
    assert refused(tried(f"s3://{name}/runs")) == set()
    assert refused(tried(f"s3://{name}/run")) == {"write", "conditional put", "delete"}
    assert stranger.keys(name) == []


def test_videos_are_only_read(stranger: Stranger) -> None:
    name = stranger.bucket({"": ["list"], "/videos": ["read"]})
    for key in ("videos/", "videos/a.mp4", "secret/b.mp4"):
        stranger.client.put_object(Bucket=name, Key=key, Body=b"" if key.endswith("/") else b"video")
    assert refused(try_videos(f"s3://{name}/videos", LONGEST_S)) == set()
    assert refused(try_videos(f"s3://{name}/secret", LONGEST_S)) == {"read"}
    (empty,) = try_videos(f"s3://{name}/elsewhere", LONGEST_S).refusals
    assert empty.reason == "it holds no object" and "--" not in empty.reason
    assert len(stranger.keys(name)) == 3


def test_a_bucket_that_is_not_there(bucket: str) -> None:
    (refusal,) = try_videos("s3://no-such-bucket-here/videos", LONGEST_S).refusals
    assert "there is no bucket" in refusal.reason and "create it" in refusal.advice


def test_a_server_out_of_reach_is_told_once(bucket: str, impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (refusal,) = try_runs(f"{bucket}/runs", "doctor-x", "node", True, LONGEST_S).refusals
    assert refusal.what == ("answer",) and "given up" in refusal.reason and "AWS_ENDPOINT_URL" in refusal.advice


def test_a_clock_that_the_server_refuses(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried then, as every answer would be about the clock."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + timedelta(minutes=20)

    monkeypatch.setattr(endure, "datetime", Ahead)
    found = tried(f"{bucket}/runs")
    assert found.ahead_s == pytest.approx(1200, abs=5) and "by this clock" in found.skipped and not found.refusals
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket=bucket.removeprefix("s3://"))
