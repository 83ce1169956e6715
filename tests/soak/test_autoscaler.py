"""Ray's second autoscaler, that of KubeRay, around a training: as tests/ray has it with the first one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.autoscaled import Autoscaled, autoscaled, refused, up_and_down


@pytest.fixture(scope="module")
def cluster() -> Iterator[Autoscaled]:
    """A head without nodes."""
    with autoscaled(second=True) as started:
        yield started


def test_what_no_node_can_hold_is_refused(cluster: Autoscaled, shards: Path, tmp_path: Path) -> None:
    refused(cluster, tmp_path, shards)


def test_nodes_come_for_a_training_and_go_after_it(cluster: Autoscaled, shards: Path, tmp_path: Path) -> None:
    up_and_down(cluster, tmp_path, shards)
