"""Ray's real autoscaler around a training: nodes come when it begins and go when it has ended; what never fits is refused.

The first autoscaler, that of the cluster launcher; tests/soak has the second one, KubeRay's.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.autoscaled import Autoscaled, autoscaled, refused, up_and_down


@pytest.fixture(scope="module")
def cluster() -> Iterator[Autoscaled]:
    """A head without nodes."""
    with autoscaled(second=False) as started:
        yield started


def test_what_no_node_can_hold_is_refused(cluster: Autoscaled, shards: Path, tmp_path: Path) -> None:
    refused(cluster, tmp_path, shards)
    assert cluster.nodes() == 0


def test_nodes_come_for_a_training_and_go_after_it(cluster: Autoscaled, shards: Path, tmp_path: Path) -> None:
    up_and_down(cluster, tmp_path, shards)
