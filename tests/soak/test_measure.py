"""The built-in measure of videos over a training: it must follow what the generator learns."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvgan.data.windows import Item, decode_window
from mvgan.metrics.features import ClipFeatures
from mvgan.presets import smoke
from mvgan.storage.local import LocalStore
from mvgan.train.hooks import Evaluator
from mvgan.train.measure import distance, generated_pairs
from mvgan.train.outbox import Outbox
from mvgan.train.pairs import PairStage
from mvgan.train.ranks import Ranks
from mvgan.train.session import group_of, local_batches, num_shards, plan_of
from mvgan.train.stage import Plan, fit
from mvgan.train.state import Progress
from tests.unit.conftest import make_shards


CPU = torch.device("cpu")
FRAMES, CLIPS, MEASURES = 6, 256, 16


def test_it_falls_by_half_over_a_training(tmp_path: Path) -> None:
    """Clips of the pair generator's two frames in turn, k apart as their real ones are, at 16 points of 8 kimg of stage 1."""
    run = dataclasses.replace(smoke(), pairs=dataclasses.replace(smoke().pairs, total_kimg=8))
    shards = make_shards(tmp_path, run, num_videos=48, num_frames=48)
    ranks = Ranks(num_shards(run, "pairs"), group_of(run, "pairs"), 0, 1)
    stage, features = PairStage(run, ranks, CPU), ClipFeatures()
    k = run.interval[0]
    rng = np.random.default_rng(0)
    drawn = [(int(rng.integers(len(shards))), int(rng.integers(48 - (FRAMES - 1) * k))) for _ in range(CLIPS)]
    clips = [Item(video, tuple(start + t * k for t in range(FRAMES)), False) for video, start in drawn]
    real = features(torch.from_numpy(decode_window(shards, clips)))

    def measure() -> dict[str, float]:
        pairs = generated_pairs(stage.ema, run, run.seed, range(CLIPS), CPU)
        return distance(real, features(torch.from_numpy(pairs[:, np.arange(FRAMES) % 2])))

    found: list[dict[str, Any]] = []
    plan = plan_of(run, "pairs", len(shards))
    plan = Plan(plan.total, plan.batch, plan.tick, plan.commit, MEASURES)
    say: Callable[[str], None] = print
    hook = Evaluator("pairs", plan, Outbox(LocalStore(str(tmp_path / "run")), say), found, measure, say, lambda *_: None)
    fit(stage, local_batches(shards, run, "pairs")(0, ranks), Progress(), plan, [hook])
    values = [record["frechet"] for record in found[1:]]  # without the untrained network, from which the fall is steepest
    quarter = len(values) // 4
    first, last = np.mean(values[:quarter]), np.mean(values[-quarter:])
    print(f"mean of the first quarter {first:.4g}, of the last {last:.4g}: {last / first:.3f}")
    assert len(values) == MEASURES and last <= first / 2
