"""Whole runs with everything on S3, by a user's commands, through a bad network.

Reference: the run of the same command in local folders, which `tests/ray` looks at too.
"""

import json
import re
from pathlib import Path

import pytest

from mvgan.storage.commit import Commits
from mvgan.storage.uri import Store, open_store
from mvgan.train.guard import SECONDS
from tests.s3.proxy import FaultProxy, Rule, sometimes
from tests.short_run import run


WEIGHTS = ("generator.safetensors", "codes.safetensors", "latent.safetensors")
TIMES = ("elapsed_s", "pairs_per_s", "clips_per_s", "commit_wait_s", "commit_write_s", "data_wait_share", "peak_memory_mb")


def copy(folder: Path, uri: str) -> None:
    for path in folder.iterdir():
        open_store(uri).write(path.name, path.read_bytes())


def metrics(store: Store, stage: str) -> list[dict[str, float]]:
    """The records of a stage without what depends on the clock."""
    lines = store.read(f"{stage}/metrics.jsonl").decode().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES and not name.endswith(SECONDS)} for line in lines]


def test_a_run_with_all_on_s3_ends_with_the_weights_of_a_local_one(
    finished: tuple[Path, str], clips: Path, bucket: str, fault_proxy: FaultProxy
) -> None:
    """Videos, shards and run folder on S3; of all requests, five in a hundred fail, in five ways."""
    copy(clips, f"{bucket}/videos")
    fault_proxy.requests(clear=True)
    kinds = (Rule("status"), Rule("reset"), Rule("truncate"), Rule("lost_ack"), Rule("hang", seconds=1))
    fault_proxy.fail(*sometimes(0.05, *kinds))
    done = run("--videos", f"{bucket}/videos", "--storage", f"{bucket}/runs", "--name", "whole")
    fault_proxy.heal()
    assert done.returncode == 0, done.stderr + done.stdout
    requests = fault_proxy.requests()
    struck = sum(request.fault is not None for request in requests)
    assert all(rule.reached.is_set() for rule in kinds)
    print(f"{struck} of {len(requests)} requests failed")
    assert 0.025 < struck / len(requests) < 0.075
    local, there = open_store(finished[0]), open_store(f"{bucket}/runs/whole")
    assert done.stdout.splitlines()[-1] == f"{there.uri}/report.html"
    for name in WEIGHTS:
        assert there.read(f"export/{name}") == local.read(f"export/{name}"), name
    for stage in ("pairs", "video"):
        assert metrics(there, stage) == metrics(local, stage), stage
    assert names(there) == names(local)


def names(store: Store) -> set[str]:
    """What a run leaves, but for names that are drawn anew each time."""
    drawn = (r"^(pairs|codes|video)/(data|epochs|commits)/", r"^drivers/", r"^tensorboard/", r"^videos/")
    return {path for path in store.list() if not any(re.match(pattern, path) for pattern in drawn)}


@pytest.mark.parametrize("status", [403, 503])
def test_a_run_whose_data_are_not_taken_ends_and_names_its_last_commit(
    status: int, finished: tuple[Path, str], bucket: str, fault_proxy: FaultProxy
) -> None:
    """All data after the first commit of stage 1: its three other commits are missed one after another.

    A 403 is final, a 503 is tried again for as long as a worker may wait.
    """
    first = "000000000160-00001"
    refused = Rule("status", status=status, method="PUT", match=rf"/pairs/data/(?!{first})")
    fault_proxy.fail(refused)
    done = run("--data", str(finished[0] / "data"), "--storage", bucket, "--name", "refused", "--hang-s", "30")
    fault_proxy.heal()
    said = done.stdout + done.stderr
    assert refused.reached.is_set(), said
    assert done.returncode not in (0, 2), said
    ending = next((line for line in done.stderr.splitlines() if line.startswith("error: ")), "")
    assert first in ending and "Traceback" not in done.stderr, said
    newest = Commits(open_store(f"{bucket}/refused"), "pairs").newest()
    assert newest is not None and newest.name == first and not newest.meta["complete"]


@pytest.mark.parametrize("stage", ["pairs", "video"])
def test_nothing_of_rays_own_is_in_the_run(finished: tuple[Path, str], stage: str) -> None:
    """Its notes would go through pyarrow, which gives up sooner than we do."""
    assert not (finished[0] / stage / "ray").exists()
