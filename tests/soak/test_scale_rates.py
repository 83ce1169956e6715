"""The figures that the simulator takes and that no benchmark has; `-s` shows them. By the core's time: other work may share the machine."""

import gc
import hashlib
import json
import os
import resource
import shutil
import time
from pathlib import Path

import psutil
import pytest
import torch

from mvgan.config import Network, Run
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.shards import MANIFEST, ShardSet, read_manifest
from mvgan.data.windows import Windows
from mvgan.nets.discriminator import Discriminator
from mvgan.nets.generator import Generator
from mvgan.scaling import rates
from mvgan.scaling.exchange import commit_bytes
from mvgan.storage.uri import open_store
from mvgan.train.pairs import PairStage
from mvgan.train.ranks import Ranks
from mvgan.train.state import to_bytes


VIDEOS = (13_000, 100_000, 1_000_000)
ENTRIES, PER_SHARD = 200_000, 8


def cpu_s() -> float:
    """Of this process and of those that it has started."""
    here = resource.getrusage(resource.RUSAGE_SELF)
    children = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return here.ru_utime + here.ru_stime + sum(times.user + times.system for times in children)


def test_drawing_a_window() -> None:
    for videos in VIDEOS:
        windows = Windows(
            [300] * videos, 16, ((0, 4),), reverse=True, mirror=True, balance="frames", pieces_per_window=16, items_per_piece=4, seed=0,
            purpose="test",
        )  # fmt: skip
        windows[0]
        times, began = max(3, 3_000_000 // videos), cpu_s()
        for index in range(times):
            assert len(windows[index]) == 64
        print(f"\na window of {videos:,} videos: {1e9 * (cpu_s() - began) / times / videos:.0f} ns a video")


def test_a_manifest(tmp_path: Path) -> None:
    """Of videos with names and figures as ingest writes them."""
    facts = {"fps": 25.0, "width": 360, "height": 288}
    videos = [
        {"id": f"{n:024x}", "source": f"part-{n // 1000:05d}/video_{n:09d}.mp4", "num_frames": 300, **facts, "shard": n // PER_SHARD,
         "first_row": n % PER_SHARD * 19} for n in range(ENTRIES)
    ]  # fmt: skip
    shards = [
        {"path": f"shards/{n:05d}-000.parquet", "rows": 19 * PER_SHARD, "bytes": 64_000_000, "sha256": "a" * 64} for n in range(25_000)
    ]
    sizes = [len(json.dumps(entries, indent=1)) / len(entries) for entries in (videos, shards)]
    counts = {"num_videos": ENTRIES, "num_frames": 300 * ENTRIES, "lengths": {}, "rejected": []}
    manifest = {"format_version": 1, "resolution": 256, "frames_per_piece": 16, **counts, "shards": shards, "videos": videos}
    open_store(tmp_path).write(MANIFEST, json.dumps(manifest, indent=1).encode())
    del videos, shards, manifest
    gc.collect()
    before, began = psutil.Process().memory_info().rss, cpu_s()
    found = read_manifest(open_store(tmp_path))
    assert found is not None
    opened = ShardSet("set", found)
    took_s, grown = cpu_s() - began, psutil.Process().memory_info().rss - before
    print(f"\nbytes of a video {sizes[0]:.0f}, of a shard {sizes[1]:.0f}")
    print(f"{grown / ENTRIES:.0f} bytes of memory and {1e6 * took_s / ENTRIES:.1f} us a video")
    assert len(opened) == ENTRIES and sizes == pytest.approx(rates.MANIFEST_BYTES, rel=0.02)


@pytest.mark.skipif("MVGAN_TEST_DATA" not in os.environ, reason="MVGAN_TEST_DATA is not set: ingest of real videos was not measured")
@pytest.mark.parametrize(("resolution", "expected"), [(64, rates.FRAME_BYTES[0]), (128, None), (256, rates.FRAME_BYTES[1])])
def test_ingest(tmp_path: Path, resolution: int, expected: float | None) -> None:
    """People who speak, 360x288 pixels. The size at 128 px is predicted."""
    (tmp_path / "videos").mkdir()
    for video in sorted(Path(os.environ["MVGAN_TEST_DATA"], "talker").glob("*.mpg"))[:24]:
        shutil.copy(video, tmp_path / "videos")
    plan = plan_ingest(str(tmp_path / "videos"), str(tmp_path / "set"), Run(resolution=resolution))
    begin(plan)
    records, began = [ingest_group(plan.groups[0])], cpu_s()  # the first starts the process that decodes
    records += [ingest_group(group) for group in plan.groups[1:]]
    took_s = cpu_s() - began
    frames = sum(video["num_frames"] for record in records[1:] for video in record["videos"])
    manifest = finish(plan, records)
    size = sum(shard["bytes"] for shard in manifest["shards"]) / manifest["num_frames"]
    print(f"\n{resolution} px: {1000 * took_s / frames:.2f} ms and {size:.0f} bytes a frame, predicted {rates.frame_bytes(resolution):.0f}")
    assert size == pytest.approx(rates.frame_bytes(resolution), rel=0.1)
    assert expected is None or size == pytest.approx(expected, rel=0.05)


def test_a_commit() -> None:
    run = Run(resolution=64, network=Network(channel_base=16384))
    state = PairStage(run, Ranks(1, 4), torch.device("cpu")).state_dict()
    began = time.process_time()
    data = to_bytes(state)
    hashlib.sha256(data).hexdigest()
    took_s = time.process_time() - began
    nets = sum(p.numel() for net in (Generator(run.network, 64), Discriminator(run.network, 64)) for p in net.parameters())
    print(f"\ncommit: {len(data) / 1e6:.0f} MB without Adam's moments, {len(data) / took_s / 1e9:.2f} GB/s")
    assert len(data) + 4 * 2 * nets == pytest.approx(commit_bytes(run), rel=0.02)
