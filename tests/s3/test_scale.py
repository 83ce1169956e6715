"""What the simulator of docs/scaling.md counts as requests of S3. Reference: the proxy before a real server."""

import json

import numpy as np

from mvgan.data.decode import encode_piece
from mvgan.data.shards import MANIFEST, ROWS_PER_GROUP, Piece, ShardSet, pack_shard
from mvgan.scaling.reading import OPEN_REQUESTS, READ_REQUESTS
from mvgan.storage.uri import open_store
from tests.s3.proxy import FaultProxy


PIECES, SHARDS = 4 * ROWS_PER_GROUP, 2


def make_set(uri: str) -> int:
    """Shards of one piece of noise again and again; returns the bytes of a row group, more than what is read ahead."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    piece = encode_piece(noise, 25.0, 14)
    shard = pack_shard([Piece(piece, "a", number, 16 * number, 16, 25.0) for number in range(PIECES)])
    paths = [f"shards/{number:05d}-000.parquet" for number in range(SHARDS)]
    counts = {"num_videos": SHARDS, "num_frames": SHARDS * PIECES * 16, "lengths": {}, "rejected": []}
    store = open_store(uri)
    for path in paths:
        store.write(path, shard)
    manifest = {
        "format_version": 1, "resolution": 64, "frames_per_piece": 16, **counts,
        "shards": [{"path": path, "rows": PIECES, "bytes": len(shard), "sha256": ""} for path in paths],
        "videos": [{"id": "a", "source": "a", "num_frames": PIECES * 16, "fps": 25.0, "shard": n, "first_row": 0} for n in range(SHARDS)],
    }  # fmt: skip
    store.write(MANIFEST, json.dumps(manifest).encode())
    return ROWS_PER_GROUP * len(piece)


def test_requests_of_a_piece(bucket: str, fault_proxy: FaultProxy) -> None:
    assert make_set(f"{bucket}/data") > 2 << 20
    shards = ShardSet.open(f"{bucket}/data", verify=False)
    found = []
    # A shard that is new; another row group of it; the same group again, which is kept; another new shard; the first one again.
    for video, piece in ((0, 0), (0, 40), (0, 41), (1, 17), (0, 63)):
        fault_proxy.requests(clear=True)
        shards.frames(video, piece, [0, 4])
        found.append(len(fault_proxy.requests()))
    first = OPEN_REQUESTS + READ_REQUESTS
    assert found == [first, READ_REQUESTS, 0, first, READ_REQUESTS]
