"""One small Ray for all tests of a module."""

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    """A local Ray with 4 logical CPUs, its files in a short path (they become names of sockets)."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    from mvgan.distributed.resources import shut_down

    folder = tempfile.mkdtemp(prefix="mv", dir="/tmp")
    ray.init(address="local", num_cpus=4, object_store_memory=200 * 2**20, include_dashboard=False, _temp_dir=folder)
    yield
    shut_down()
    shutil.rmtree(folder, ignore_errors=True)
