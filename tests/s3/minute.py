"""A minute in which every request to S3 fails, and what readers have to say at its end."""

import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq

from mvgan.data.shards import ShardSet
from mvgan.storage.uri import open_store
from tests.s3.proxy import FaultProxy, Rule
from tests.s3.server import S3Server


ROOT = Path(__file__).parents[2]
OUTAGE_S = 60.0
RECOVERY_S = 90.0
"""Longest that readers may take afterwards: a wait between tries, a request that hangs to its timeout, and a busy machine."""
FOREVER = {"503": Rule("status"), "reset": Rule("reset"), "truncated body": Rule("truncate", keep=100), "hang": Rule("hang", seconds=600)}

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


def copy(local: ShardSet, uri: str) -> None:
    """Copy a shard set."""
    here, there = open_store(local.uri), open_store(uri)
    for path in here.list():
        there.write(path, here.read(path))


class Minute:
    """Readers of the shards at `uri` through such a minute, one for each kind of fault, from now on.

    It passes in a thread beside other tests, since all wait most of the time. `expected` is what each reader should
    print, from `local`, the same shards in a local folder.
    """

    def __init__(self, server: S3Server, uri: str, local: ShardSet) -> None:
        self.expected = _answers(local)
        self._server, self._uri, self._environment = server, uri, dict(os.environ)
        self._pool = ThreadPoolExecutor(len(FOREVER))
        self._readers: dict[str, Future[tuple[list[str], int]]] = {name: self._pool.submit(self._read, name) for name in FOREVER}

    def result(self) -> tuple[dict[str, list[str]], dict[str, int]]:
        """What each reader has printed, sorted, and how many of its requests had failed; waits for the end."""
        ended = {name: reader.result() for name, reader in self._readers.items()}
        return {name: lines for name, (lines, _) in ended.items()}, {name: number for name, (_, number) in ended.items()}

    def _read(self, name: str) -> tuple[list[str], int]:
        proxy = FaultProxy(self._server.endpoint)
        environment = {**self._environment, **self._server.environment(proxy.endpoint)}
        line = [sys.executable, "-c", READER, self._uri]
        with subprocess.Popen(line, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            try:
                assert reader.stdin is not None and reader.stdout is not None
                assert reader.stdout.readline() == "ready\n"
                proxy.requests(clear=True)
                proxy.fail(FOREVER[name])
                print(file=reader.stdin, flush=True)
                time.sleep(OUTAGE_S)
                number = len(proxy.requests())
                assert reader.poll() is None, f"{name}: the reader has ended before the minute had"
                proxy.heal()
                return sorted(reader.communicate(timeout=RECOVERY_S)[0].splitlines()), number
            finally:
                reader.kill()
                proxy.stop()


def _answers(local: ShardSet) -> list[str]:
    """What a reader prints, from the local files."""
    store = open_store(local.uri)
    path = next(path for path in store.list("shards/") if path.endswith(".parquet"))
    file = pq.ParquetFile(Path(local.uri, path))
    lines = {
        "read": hashlib.sha256(store.read(path)).hexdigest(),
        "list": len(store.list()),
        "rows": hashlib.sha256(file.read_row_group(0)["video"][0].as_py()).hexdigest(),
        "open": file.metadata.num_rows,
    }
    return sorted(f"{name} {value}" for name, value in lines.items())
