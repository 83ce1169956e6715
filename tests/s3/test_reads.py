"""Reads of shards through faults: five in a hundred requests for good, and all of them for a minute.

Reference: the same bytes and frames from a local folder.
"""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvgan.config import Run
from mvgan.data import shards as shards_module
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.shards import ShardSet
from mvgan.data.synthetic import render_set
from mvgan.storage.uri import open_store
from tests.s3.proxy import FaultProxy, Rule, sometimes
from tests.s3.server import S3Server


ROOT = Path(__file__).parents[2]
OUTAGE_S = 60.0
FOREVER = {"503": Rule("status"), "reset": Rule("reset"), "truncated body": Rule("truncate", keep=100), "hang": Rule("hang", seconds=600)}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Six shards of a video each, in a local folder."""
    root = tmp_path_factory.mktemp("shards")
    render_set(str(root / "videos"), num_videos=6, num_frames=40, size=32, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mvgan.data.ingest.MIN_GROUP_BYTES", 1)
        plan = plan_ingest(str(root / "videos"), str(root / "data"), Run(resolution=32))
    assert begin(plan) is None
    finish(plan, [ingest_group(group) for group in plan.groups])
    return ShardSet.open(str(root / "data"))


def copy(local: ShardSet, uri: str) -> None:
    here, there = open_store(local.uri), open_store(uri)
    for path in here.list():
        there.write(path, here.read(path))


def all_frames(shards: ShardSet) -> Iterator[np.ndarray]:
    for video in range(len(shards)):
        for piece in range(shards.num_pieces(video)):
            yield shards.frames(video, piece)


def test_frames_through_a_bad_network_are_those_of_the_disk(
    local: ShardSet, bucket: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(local, f"{bucket}/data")
    expected = list(all_frames(local))
    fault_proxy.requests(clear=True)
    kinds = (Rule("status"), Rule("reset"), Rule("truncate"), Rule("lost_ack"), Rule("hang", seconds=0.5))
    fault_proxy.fail(*sometimes(0.05, *kinds))
    while len(fault_proxy.requests()) < 400 or not all(rule.reached.is_set() for rule in kinds):
        monkeypatch.setattr(shards_module, "_ROW_GROUPS", shards_module._RowGroups())  # nothing of the last turn is kept
        found = list(all_frames(ShardSet.open(f"{bucket}/data")))
        assert all((a == b).all() for a, b in zip(found, expected, strict=True))
        assert len(fault_proxy.requests()) < 4000


READER = """
import hashlib, sys, threading
import pyarrow.parquet as pq
from mvgan.storage.uri import open_store

store = open_store(sys.argv[1])
path = next(path for path in store.list("shards/") if path.endswith(".parquet"))
opened = pq.ParquetFile(store.open(path))

def whole():
    print("read", hashlib.sha256(store.read(path)).hexdigest(), flush=True)

def listed():
    print("list", len(store.list()), flush=True)

def rows():
    table = opened.read_row_group(0)
    print("rows", hashlib.sha256(table["video"][0].as_py()).hexdigest(), flush=True)

def opens():
    print("open", pq.ParquetFile(store.open(path)).metadata.num_rows, flush=True)

print("ready", flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=job) for job in (whole, listed, rows, opens)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_reads_survive_a_minute(local: ShardSet, bucket: str, s3_server: S3Server) -> None:
    """A minute in which every request meets a fault, of each kind in a process of its own, all at the same time."""
    copy(local, f"{bucket}/data")
    proxies = {name: FaultProxy(s3_server.endpoint) for name in FOREVER}
    readers: dict[str, Any] = {}
    for name, proxy in proxies.items():
        environment = {**os.environ, **s3_server.environment(proxy.endpoint)}
        line = [sys.executable, "-c", READER, f"{bucket}/data"]
        readers[name] = subprocess.Popen(line, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for name, reader in readers.items():
            assert reader.stdout.readline() == "ready\n"
            proxies[name].requests(clear=True)
            proxies[name].fail(FOREVER[name])
        start = time.monotonic()
        for reader in readers.values():
            print(file=reader.stdin, flush=True)
        time.sleep(OUTAGE_S)
        said_meanwhile = {name: len(proxies[name].requests()) for name in proxies}
        for name, proxy in proxies.items():
            assert readers[name].poll() is None, f"{name}: the reader has given up"
            proxy.heal()
        outputs = {name: reader.communicate(timeout=60)[0] for name, reader in readers.items()}
    finally:
        for reader in readers.values():
            reader.kill()
            reader.wait()
        for proxy in proxies.values():
            proxy.stop()
    assert time.monotonic() - start >= OUTAGE_S
    assert all(number >= 8 for number in said_meanwhile.values()), said_meanwhile
    expected = answers(local)
    assert {name: sorted(output.split("\n")) for name, output in outputs.items()} == dict.fromkeys(FOREVER, expected)


def answers(local: ShardSet) -> list[str]:
    """What a reader prints, from the local files."""
    import pyarrow.parquet as pq

    store = open_store(local.uri)
    path = next(path for path in store.list("shards/") if path.endswith(".parquet"))
    file = pq.ParquetFile(Path(local.uri, path))
    row = file.read_row_group(0)["video"][0].as_py()
    lines = {
        "read": hashlib.sha256(store.read(path)).hexdigest(),
        "list": len(store.list()),
        "rows": hashlib.sha256(row).hexdigest(),
        "open": file.metadata.num_rows,
    }
    return sorted(["", *(f"{name} {value}" for name, value in lines.items())])
