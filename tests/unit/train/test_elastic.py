"""One run with 1, then 2, then 1 gloo workers sees the samples of a run with 1, and ends with its weights up to rounding."""

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from mvgan.data.shards import ShardSet
from mvgan.nets.video_discriminator import VideoDiscriminator
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
        weights = hashlib.sha256(folder.store.read("export/generator.safetensors")).hexdigest()
        folder.store.write("export/codes.json", json.dumps({"generator_sha256": weights}).encode())
    return folder, root


UNFELT = re.compile(r"scales\.\d\.(convs\.[123]|out)\.bias")
"""Parameters of D_V and D_R that change no loss: instance normalisation takes the biases before it away, and the relativistic
loss takes differences of scores. Their gradients are nothing but rounding, of which Adam makes whole steps."""


def flat(net: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for name, tensor in net.items() if not UNFELT.fullmatch(name)])


def test_what_is_left_out_of_the_comparison_changes_no_loss() -> None:
    """Moved by 0.5, far more than training moves them, these parameters change differences of scores by rounding only; others do."""
    torch.manual_seed(0)
    net = VideoDiscriminator(2, 1).double()
    clips = torch.rand(4, 6, 8, 16, 16, dtype=torch.float64)

    def changes(left_out: bool) -> list[float]:
        found = []
        for name, parameter in net.named_parameters():
            if name.endswith("bias") and bool(UNFELT.fullmatch(name)) == left_out:
                before = net(clips)[0]
                with torch.no_grad():
                    parameter += 0.5
                    after = net(clips)[0]
                    parameter -= 0.5
                found.append(float(((after - after[:1]) - (before - before[:1])).abs().max()))
        return found

    assert len(changes(True)) == 4 and max(changes(True)) < 1e-9
    assert changes(False) and min(changes(False)) > 1e-6


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
