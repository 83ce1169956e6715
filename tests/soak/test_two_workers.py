"""Two workers under Ray Train train as one does: the same curve, and hardly a wait for data."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvgan.config import Resources
from mvgan.distributed.trainer import train_stage
from mvgan.presets import smoke
from mvgan.storage.run import RunFolder, open_run
from mvgan.train.exposed import EXPOSED
from mvgan.train.stage import DATA_WAIT
from tests.ray.conftest import ray_session
from tests.soak.curves import draw_curves
from tests.unit.conftest import make_shards


__all__ = ["ray_session"]  # a fixture

KIMG, TICK_KIMG = 4.8, 0.096


def history_of(folder: RunFolder, workers: int) -> list[dict[str, Any]]:
    """What was logged of stage 1, with one thread a worker."""
    train_stage(folder, "pairs", Resources(workers=workers, threads=1))
    return [json.loads(line) for line in folder.store.read("pairs/metrics.jsonl").splitlines()]


@pytest.mark.usefixtures("ray_session")
def test_the_curve_of_one(tmp_path: Path) -> None:
    """The same samples, so the same losses at first to rounding, and later those of training that went another way by as little."""
    run = smoke()
    pairs = dataclasses.replace(run.pairs, total_kimg=KIMG, tick_kimg=TICK_KIMG, commit_kimg=KIMG, evaluations=8)
    run = dataclasses.replace(run, pairs=pairs)
    shards = make_shards(tmp_path, run, num_videos=48, num_frames=48)
    histories = {}
    for workers in (1, 2):
        folder = open_run(str(tmp_path / f"run{workers}"), run, shards.uri)
        histories[f"{workers} worker{'s' * (workers - 1)}"] = history_of(folder, workers)
        shutil.rmtree(tmp_path / f"run{workers}" / "pairs" / "data")
    panels = {}
    for title, key in (("loss of D", "d_loss"), ("loss of G", "g_loss"), ("Fréchet distance (seeded features)", "frechet")):
        points = {
            name: [(record["images"], record[key]) for record in history if key in record and (key != "frechet" or record["images"])]
            for name, history in histories.items()
        }
        panels[title] = {name: tuple(zip(*some, strict=True)) for name, some in points.items()}
    draw_curves("two-workers", "pairs seen", panels, {})
    for title, curves in panels.items():
        (x, one), (_, two) = curves.values()
        difference = np.abs(np.subtract(one, two)) / np.mean(one)
        early = difference[: len(x) // 5].max()
        print(f"{title}: the first fifth of {len(x)} points differs by at most {early:.2g} of the mean, all by {difference.mean():.2g}")
        assert difference.mean() < 0.05, title
        if title.startswith("loss"):  # of the first 12 steps; the first distance follows 75
            assert difference[0] < 1e-3, title
    waits = {name: [record[DATA_WAIT] for record in history if DATA_WAIT in record] for name, history in histories.items()}
    exposed = [record[EXPOSED] for record in histories["2 workers"] if EXPOSED in record]
    rate = {
        name: np.median([record["pairs_per_s"] for record in history if "pairs_per_s" in record]) for name, history in histories.items()
    }
    print(f"share of the step that waits for data: { {name: float(np.mean(some)) for name, some in waits.items()} }")
    print(f"exposed communication {1000 * np.median(exposed):.1f} ms a step, pairs/s {rate}")
    # The mean over workers: below 2.5 %, so that neither of two waits for 5 %.
    assert all(np.mean(some) < 0.025 for some in waits.values())
