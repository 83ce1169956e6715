"""A whole run of seconds: every stage's own plain functions, in this process, on a few synthetic videos at 16 px."""

import dataclasses
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
import torch

from mvgan.config import Network, Pairs, Run, Video
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.shards import ShardSet
from mvgan.data.synthetic import render_set
from mvgan.presets import smoke
from mvgan.storage import s3 as s3_store
from mvgan.storage.run import RunFolder, open_run
from mvgan.train.codes import commit_files, find, measure, to_measure
from mvgan.train.export import export_codes, export_weights
from mvgan.train.session import Worker, local_batches, train_worker
from mvgan.validation import validate


CPU = torch.device("cpu")


def tiny_config() -> Run:
    """The preset `smoke`, shrunk: too short to learn anything, but whole."""
    network = Network(z_dim=16, w_dim=32, mapping_layers=2, channel_base=256, channel_max=16, precision="fp32")
    pairs = Pairs(
        total_kimg=0.064, batch=8, group=4, r1_gamma=0.05, pl_weight=0.0, ema_kimg=0.01, pieces_per_window=4, pairs_per_piece=4,
        tick_kimg=0.016, commit_kimg=0.032, evaluations=2, eval_pairs=64,
    )  # fmt: skip
    video = Video(
        total_clips=16, num_frames=4, batch=4, group=4, hidden=16, residual=0.5, g_steps=1, d_channels=4, d_scales=1,
        pieces_per_window=4, tick_clips=8, commit_clips=16, evaluations=2, eval_clips=16,
    )  # fmt: skip
    return validate(dataclasses.replace(smoke(), num_codes=2, latents=2, stride=2, network=network, pairs=pairs, video=video))


def make_shards(folder: Path, run: Run, num_videos: int = 8, num_frames: int = 24) -> ShardSet:
    """Shards of synthetic videos below `folder`."""
    render_set(str(folder / "videos"), num_videos, num_frames, size=32)
    plan = plan_ingest(str(folder / "videos"), str(folder / "shards"), run)
    begin(plan)
    finish(plan, [ingest_group(group) for group in plan.groups])
    return ShardSet.open(str(folder / "shards"))


def train_stage(folder: RunFolder, shards: ShardSet, stage: str) -> None:
    """Train `stage` in this process and export its weights."""
    epoch = folder.commits(stage).claim({"test": stage})
    train_worker(folder, stage, epoch, local_batches(shards, folder.run, stage), Worker())
    export_weights(folder, stage)


def find_codes(folder: RunFolder) -> None:
    """Stage 2 in this process."""
    run = folder.run
    epoch = folder.commits("codes").claim({"test": "codes"})
    tensors, summary = find(folder, CPU)
    found = to_measure(tensors)
    measures = {(method, direction): measure(folder, codes, direction, CPU) for (method, direction), codes in found.items()}
    folder.commits("codes").write(run.latents, epoch, commit_files(folder, tensors, summary, measures), {"complete": True})
    export_codes(folder)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run; tests must not change its folder (copy it first)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("tiny")
    run = tiny_config()
    shards = make_shards(root, run)
    folder = open_run(str(root / "run"), run, shards.uri)
    train_stage(folder, shards, "pairs")
    find_codes(folder)
    train_stage(folder, shards, "video")
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URI of an empty bucket of moto's server, an outside implementation of the S3 API, in this process."""
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "HTTP_PROXY", "http_proxy"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3_store._client.cache_clear()
        s3fs.S3FileSystem.clear_instance_cache()  # another module's server had another address
        urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()  # but the same objects: they are the process's
        s3_store.client().create_bucket(Bucket="bucket")
        yield "s3://bucket"
        s3_store._client.cache_clear()
    server.stop()
