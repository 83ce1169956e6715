"""Ingest to S3 by exhaustion: the connection is lost at every single request, and the same ingest then goes on.

Reference: the same ingest to a local folder.
"""

from pathlib import Path
from typing import Any

import pytest

from mvgan.config import Run
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.shards import MANIFEST
from mvgan.data.synthetic import render_set
from mvgan.storage.uri import open_store
from tests.s3.proxy import FaultProxy, Rule


RUN = Run(resolution=16)


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two videos, a shard each."""
    monkeypatch.setattr("mvgan.data.ingest.MIN_GROUP_BYTES", 1)
    render_set(str(tmp_path / "videos"), num_videos=2, num_frames=20, size=32)
    return str(tmp_path / "videos")


def ingest(videos: str, out: str) -> dict[str, Any]:
    plan = plan_ingest(videos, out, RUN)
    return begin(plan) or finish(plan, [ingest_group(group) for group in plan.groups])


@pytest.mark.usefixtures("impatient")
def test_an_ingest_that_lost_its_connection_at_any_request_goes_on(
    videos: str, tmp_path: Path, bucket: str, fault_proxy: FaultProxy
) -> None:
    expected = ingest(videos, str(tmp_path / "local"))
    fault_proxy.requests(clear=True)
    assert ingest(videos, f"{bucket}/counted") == expected
    number = len(fault_proxy.requests())
    assert number >= 10
    begun = 0
    for at in range(number):
        out = open_store(f"{bucket}/{at:03d}")
        fault_proxy.fail(Rule("reset", skip=at))
        with pytest.raises(ConnectionError):
            ingest(videos, out.uri)
        fault_proxy.heal()
        begun += out.exists("plan.json")
        assert not out.exists(MANIFEST) or at == number - 1
        assert ingest(videos, out.uri) == expected, at
        assert ingest(videos, out.uri) == expected, "running it again changes nothing"
    assert begun >= 8, "most cuts come after the plan is there"
