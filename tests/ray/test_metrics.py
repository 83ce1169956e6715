"""A training as Prometheus sees it: the targets that Ray's head names are scraped. Reference: the run's own records."""

import json
import os
import re
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvgan.config import Resources
from mvgan.distributed import metrics
from mvgan.distributed.metrics import Exported
from mvgan.presets import smoke
from mvgan.settings import from_dict
from mvgan.storage.run import open_run
from mvgan.train.hooks import read_metrics


DISCOVERY = "prom_metrics_service_discovery.json"
LAST_S = 90.0
"""Longest that Ray may take to name its targets, or to export what was set."""

Samples = dict[tuple[str, str, str], float]
"""By name, stage and, of losses, which one."""


@pytest.fixture
def head() -> Iterator[Path]:
    """The files of a Ray with the dashboard of a head, on which it depends that targets are named."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    from mvgan.distributed.resources import shut_down

    folder = tempfile.mkdtemp(prefix="mv", dir="/tmp")
    ray.init(
        address="local", num_cpus=4, object_store_memory=100 * 2**20, include_dashboard=True, dashboard_host="127.0.0.1", _temp_dir=folder
    )
    yield Path(folder)
    shut_down()
    shutil.rmtree(folder, ignore_errors=True)


def scraped(head: Path, run: str) -> Samples:
    """What the targets tell of a run now."""
    found: Samples = {}
    file = head / DISCOVERY
    targets = [target for group in json.loads(file.read_text()) for target in group["targets"]] if file.exists() else []
    for target in targets:
        text = urllib.request.urlopen(f"http://{target}/metrics", timeout=30).read().decode()
        for name, labels, value in re.findall(r"^(ray_mvgan_\w+){(.*)} (\S+)$", text, re.MULTILINE):
            tags = dict(re.findall(r'(\w+)="(.*?)"', labels))
            if tags["run"] == run:
                assert (name, tags["stage"], tags.get("loss", "")) not in found, "a series twice"
                found[name, tags["stage"], tags.get("loss", "")] = float(value)
    return found


def await_samples(head: Path, run: str, at_least: Samples) -> Samples:
    """What is told once these samples are among it."""
    deadline = time.monotonic() + LAST_S
    while not at_least.items() <= (found := scraped(head, run)).items():
        assert time.monotonic() < deadline, (found, at_least)
        time.sleep(0.5)
    return found


def test_a_training_is_exported(head: Path, shards: Path, tmp_path: Path) -> None:
    from mvgan.distributed.trainer import train_stage

    pairs = {"total_kimg": 0.32, "tick_kimg": 0.08, "commit_kimg": 0.16, "evaluations": 1, "eval_pairs": 64}
    folder = open_run(str(tmp_path / "run"), from_dict(smoke(), {"pairs": pairs}), str(shards))
    began = time.time()
    train_stage(folder, "pairs", Resources(threads=1))
    history = read_metrics(folder.store, "pairs")
    last, measured = ([record for record in history if key in record][-1] for key in ("d_loss", "frechet"))
    told = {("ray_mvgan_images", "pairs", ""): 320.0, ("ray_mvgan_images_per_second", "pairs", ""): 0.0}
    found = await_samples(head, folder.uri, told)
    expected = {
        "ray_mvgan_data_wait_share": last["data_wait_share"],
        "ray_mvgan_frechet_distance": measured["frechet"],
    }
    assert {name: found[name, "pairs", ""] for name in expected} == expected
    losses = {loss: value for (name, _, loss), value in found.items() if name == "ray_mvgan_loss"}
    assert losses == {name: last[f"{name}_loss"] for name in ("g", "d")}
    assert began < found["ray_mvgan_last_commit_timestamp_seconds", "pairs", ""] < time.time()
    assert not [name for name, _, _ in found if name.endswith("_total")], "nothing has gone wrong"

    # What goes wrong adds up over records, and another stage is a series of its own.
    video = Exported(folder.uri, "video")
    for missed, skipped in ((1.0, 0.0), (2.0, 3.0)):
        video.tell(
            64, {"clips_per_s": 5.0, "exposed_comm_s": 0.25, "missed_commits": missed, "skipped_steps": skipped, "commit_write_s": 1.0}
        )
    told |= {("ray_mvgan_missed_commits_total", "video", ""): 3.0, ("ray_mvgan_skipped_steps_total", "video", ""): 3.0}
    told |= {("ray_mvgan_images_per_second", "video", ""): 5.0, ("ray_mvgan_exposed_comm_seconds", "video", ""): 0.25}
    found = await_samples(head, folder.uri, told)
    assert ("ray_mvgan_last_commit_timestamp_seconds", "video", "") not in found, "a commit that was missed is none"
    assert {name for name, _, _ in found} == {metrics.PREFIX + name for name in metrics.MEANINGS}, "the names that the dashboard asks for"
