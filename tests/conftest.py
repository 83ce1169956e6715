"""What all tests share: one thread for torch, warnings of our own code as errors, and a real S3 server."""

import os
from pathlib import Path

import pytest
import torch

from tests.s3.fixtures import bucket, fault_proxy, finished, impatient, s3_server  # noqa: F401


def pytest_configure(config: pytest.Config) -> None:
    """Small networks gain nothing from threads, and other work may share the machine."""
    torch.set_num_threads(1)
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "150")  # by default 30, which a busy machine takes; commands inherit it
    for ours in ("mvgan", "jobs"):
        config.addinivalue_line("filterwarnings", rf"error:::{ours}(\..*)?$")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six synthetic clips."""
    from mvgan.data.synthetic import render_set

    folder = tmp_path_factory.mktemp("clips")
    render_set(str(folder), 6, 72)
    return folder


@pytest.fixture(scope="session")
def shards(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their shards at 16 px."""
    from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
    from mvgan.presets import smoke

    folder = tmp_path_factory.mktemp("shards")
    plan = plan_ingest(str(clips), str(folder), smoke())
    begin(plan)
    finish(plan, [ingest_group(group) for group in plan.groups])
    return folder
