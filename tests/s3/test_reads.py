"""Reads of shards through faults: five in a hundred requests for good, and all of them for a minute.

Reference: the same bytes and frames from a local folder.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from mvgan.data import shards as shards_module
from mvgan.data.shards import ShardSet
from tests.s3.minute import FOREVER, Minute, copy
from tests.s3.proxy import FaultProxy, Rule, sometimes


def all_frames(shards: ShardSet) -> Iterator[np.ndarray]:
    for video in range(len(shards)):
        for piece in range(shards.num_pieces(video)):
            yield shards.frames(video, piece)


def test_frames_through_a_bad_network_are_those_of_the_disk(
    local: ShardSet, bucket: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(local, f"{bucket}/data")
    expected = list(all_frames(local))
    fault_proxy.requests(clear=True)
    kinds = (Rule("status"), Rule("reset"), Rule("truncate"), Rule("lost_ack"), Rule("hang", seconds=0.5))
    fault_proxy.fail(*sometimes(0.05, *kinds))
    while len(fault_proxy.requests()) < 400 or not all(rule.reached.is_set() for rule in kinds):
        monkeypatch.setattr(shards_module, "_ROW_GROUPS", shards_module._RowGroups())  # nothing of the last turn is kept
        found = list(all_frames(ShardSet.open(f"{bucket}/data")))
        assert all((a == b).all() for a, b in zip(found, expected, strict=True))
        assert len(fault_proxy.requests()) < 4000


def test_reads_survive_a_minute(minute: Minute) -> None:
    """A minute in which every request meets a fault, of each kind in a process of its own (minute.py)."""
    said, requests = minute.result()
    assert all(number >= 8 for number in requests.values()), requests
    assert said == dict.fromkeys(FOREVER, minute.expected)
