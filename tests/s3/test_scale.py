"""What the simulator of docs/scaling.md counts as requests of S3, counted by a real server's proxy."""

import json

import numpy as np
import pytest

from mvgan.data import shards as shards_module
from mvgan.data.decode import encode_piece
from mvgan.data.shards import MANIFEST, ROWS_PER_GROUP, Piece, ShardSet, pack_shard
from mvgan.storage.uri import open_store
from tests.s3.proxy import FaultProxy


PIECES, SHARDS = 4 * ROWS_PER_GROUP, 3


def test_x(bucket: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    video = encode_piece(noise, 25.0, 14)
    data = pack_shard([Piece(video, "a", i, 16 * i, 16, 25.0) for i in range(PIECES)])
    print(len(video), len(data))
    store = open_store(f"{bucket}/data")
    for i in range(SHARDS):
        store.write(f"shards/{i:05d}-000.parquet", data)
    manifest = {
        "format_version": 1, "resolution": 64, "frames_per_piece": 16, "num_videos": SHARDS, "num_frames": SHARDS * PIECES * 16, "lengths": {},
        "rejected": [],
        "shards": [{"path": f"shards/{i:05d}-000.parquet", "rows": PIECES, "bytes": len(data), "sha256": ""} for i in range(SHARDS)],
        "videos": [{"id": "a", "source": "a", "num_frames": PIECES * 16, "fps": 25.0, "shard": i, "first_row": 0} for i in range(SHARDS)],
    }
    store.write(MANIFEST, json.dumps(manifest).encode())
    fault_proxy.requests(clear=True)
    shards = ShardSet.open(f"{bucket}/data", verify=False)
    print([(r.method, r.target[-60:]) for r in fault_proxy.requests(clear=True)])
    for video, piece in ((0, 0), (0, 40), (0, 20), (1, 17), (1, 60), (0,63)):
        shards.frames(video, piece, [0, 4])
        print(video, piece, [(r.method, r.target[-40:]) for r in fault_proxy.requests(clear=True)])
