"""What a stream may use of a cluster that several trainings share; the streams themselves are in tests/ray."""

import pytest

from mvgan.distributed.data import STORE_SHARE, WindowStreams
from mvgan.storage.run import RunFolder


def test_trainings_at_once_share_the_cluster(tiny_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 22 CPUs two workers of two trainings leave 18 to decoding, and each has a quarter of what all may use."""
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 22.0, "object_store_memory": 2.0**30})
    for trainings, tasks in ((1, 10), (2, 4)):
        given = WindowStreams(tiny_run.uri, "pairs", trainings).configure({}, 2)
        limits = [stream["train"].limits for stream in given]
        assert [(each.tasks, each.store_bytes * trainings * 2) for each in limits] == [(tasks, STORE_SHARE * 2**30)] * 2
