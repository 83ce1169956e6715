"""Training on Ray when things go wrong: in their own words, and not tried again where that cannot help."""

import os
from pathlib import Path

import pytest

from mvgan.config import InputError, Resources, from_dict
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.synthetic import render_set
from mvgan.distributed.trainer import train_stage
from mvgan.presets import smoke
from mvgan.storage.run import RunFolder, open_run


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run on two clips that has not begun."""
    run = from_dict(smoke(), {"pairs": {"total_kimg": 0.32, "evaluations": 0, "batch": 8}})
    render_set(str(tmp_path / "clips"), 2, 24)
    plan = plan_ingest(str(tmp_path / "clips"), str(tmp_path / "data"), run)
    assert begin(plan) is None
    finish(plan, [ingest_group(group) for group in plan.groups])
    return open_run(str(tmp_path / "run"), run, str(tmp_path / "data"))


@pytest.mark.usefixtures("ray_session")
def test_a_shard_damaged_during_training_is_named(folder: RunFolder) -> None:
    """The check at the start has passed; decoding then meets the damage."""
    shard = next(Path(folder.data).glob("shards/*.parquet"))
    data = bytearray(shard.read_bytes())
    data[64 : len(data) // 2] = os.urandom(len(data) // 2 - 64)
    shard.write_bytes(data)
    with pytest.raises(InputError, match=shard.name):
        train_stage(folder, "pairs", Resources(threads=1, max_failures=3))
    assert "starting them again" not in Path(folder.uri, "logs/pairs-00001.log").read_text(), "what cannot heal was tried again"
