"""One run with 1, then 2, then 1 gloo workers sees the samples of a run with 1, and ends with its weights up to rounding."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from mvgan.data.shards import ShardSet
from mvgan.storage.run import RunFolder, open_run
from mvgan.train.export import export_weights
from tests.unit.train import elastic_workers, test_resume, test_session


SCRIPT = Path(__file__).with_name("elastic_workers.py")
RUN = dataclasses.replace(test_resume.RUN, deterministic=False)
LIVES = [(1, 6), (2, 6), (1, 0)]
"""Workers, and steps until they are killed, which is two steps after a commit: those are made again."""
data = test_session.data


def stream_hash(seen: Path) -> tuple[str, int]:
    """sha256 over all samples in their global order, and how many groups there were."""
    files = sorted(seen.iterdir())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest(), len(files)


def live(folder: RunFolder, stage: str, workers: int, steps: int, seen: Path) -> None:
    """Train with processes of their own until they are killed or done."""
    epoch = folder.commits(stage).claim({})
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(SCRIPT.parents[3]), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(SCRIPT)]
    arguments = [folder.uri, stage, str(epoch), str(steps), str(seen)]
    processes = [subprocess.Popen([*command, str(rank), str(workers), *arguments], env=environment) for rank in range(workers)]
    try:
        assert [process.wait(timeout=300) for process in processes] == [elastic_workers.KILLED if steps else 0] * workers
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def single(data: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Path]:
    """A run of one worker that nothing disturbed, and what it saw."""
    root = tmp_path_factory.mktemp("single")
    folder = open_run(str(root / "run"), RUN, data.uri)
    codes = torch.linalg.qr(torch.randn(8, 6, generator=torch.Generator().manual_seed(0))).Q.t()
    for stage in ("pairs", "video"):
        (root / stage).mkdir()
        epoch = folder.commits(stage).claim({})
        elastic_workers.train(0, 1, folder.uri, stage, epoch, None, root / stage)
        export_weights(folder, stage)
        folder.store.write("export/codes.safetensors", save({"backward": codes[:3].contiguous(), "forward": codes[3:].contiguous()}))
    return folder, root


def flat(net: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in net.values()])


@pytest.mark.parametrize("stage", ["pairs", "video"])
def test_another_number_of_workers_sees_the_same_samples(stage: str, single: tuple[RunFolder, Path], tmp_path: Path) -> None:
    """Reference: the run with one worker: the same hash of the stream, and weights within 1e-4 of their norm for each network."""
    whole, root = single
    folder = open_run(str(tmp_path / "run"), RUN, whole.data)
    for path in whole.store.list("export/"):
        folder.store.write(path, whole.store.read(path))
    seen = tmp_path / "seen"
    seen.mkdir()
    for workers, steps in LIVES:
        live(folder, stage, workers, steps, seen)
    wanted_hash, groups = stream_hash(root / stage)
    assert groups == {"pairs": 32, "video": 24}[stage] and stream_hash(seen) == (wanted_hash, groups)
    found, wanted = (test_resume.weights(run, stage) for run in (folder, whole))
    distances: dict[str, Any] = {key: float((flat(found[key]) - flat(net)).norm() / flat(net).norm()) for key, net in wanted.items()}
    print(f"{stage}: relative distance of weights {distances}")
    assert max(distances.values()) < 1e-4, distances
