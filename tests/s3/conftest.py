"""Shards for the tests on S3, and the minute of faults, which passes beside them."""

import boto3
import pytest

from mvgan.config import Run
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.shards import ShardSet
from mvgan.data.synthetic import render_set
from tests.s3.fixtures import clients_at
from tests.s3.minute import Minute, copy
from tests.s3.server import S3Server, bucket_name


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Six shards of a video each, in a local folder."""
    root = tmp_path_factory.mktemp("shards")
    render_set(str(root / "videos"), num_videos=6, num_frames=40, size=32, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mvgan.data.ingest.MIN_GROUP_BYTES", 1)
        plan = plan_ingest(str(root / "videos"), str(root / "data"), Run(resolution=32))
    assert begin(plan) is None
    finish(plan, [ingest_group(group) for group in plan.groups])
    return ShardSet.open(str(root / "data"))


@pytest.fixture(scope="session")
def minute(s3_server: S3Server, local: ShardSet) -> Minute:
    """The minute, from the moment on that the first test asks for it."""
    with clients_at(s3_server.environment()):
        name = bucket_name()
        boto3.client("s3").create_bucket(Bucket=name)
        copy(local, f"s3://{name}/data")
        return Minute(s3_server, f"s3://{name}/data", local)


@pytest.fixture(scope="session", autouse=True)
def minute_begins(request: pytest.FixtureRequest) -> None:
    """Begin it with the first test of this folder, where the one that waits for its end is to run too."""
    if any("minute" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("minute")
