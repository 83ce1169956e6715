"""ADA keeps D from overfitting a few pairs: the sign of D on real pairs, with it and without."""

import dataclasses
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.shards import ShardSet
from mvgan.data.windows import decode_window
from mvgan.presets import demo
from mvgan.train.measure import drawn_items
from mvgan.train.pairs import PairStage
from mvgan.train.ranks import Ranks
from mvgan.train.state import Progress
from mvgan.validation import validate
from tests.soak.curves import draw_curves, means


PAIRS, STEPS, TOGETHER = 64, 3000, 100
LR, R1_GAMMA = 0.0025, 0.04
TARGET, ADA_KIMG = 0.6, 3.0
"""ADA raises its probability from 0 to 1 in 3 thousand pairs, not in 500: these runs have 24 thousand."""


def real_pairs(folder: Path, videos: str) -> torch.Tensor:
    """PAIRS of the videos, at 32 px, uint8 [n, 2, 3, 32, 32]."""
    plan = plan_ingest(videos, str(folder / "shards"), demo())
    begin(plan)
    finish(plan, [ingest_group(group) for group in plan.groups])
    shards = ShardSet.open(str(folder / "shards"))
    return torch.from_numpy(decode_window(shards, drawn_items(shards, demo(), "pairs", PAIRS)))


def signs(real: torch.Tensor, augment: str) -> tuple[list[float], list[float]]:
    """Mean signs of D on the real pairs it is shown, and the probability of augmentation, each over TOGETHER steps; on one core."""
    torch.set_num_threads(1)
    base = demo()
    network = dataclasses.replace(base.network, channel_base=2048)
    pairs = dataclasses.replace(base.pairs, lr=LR, r1_gamma=R1_GAMMA, augment=augment, ada_target=TARGET, ada_kimg=ADA_KIMG)  # type: ignore[arg-type]
    run = validate(dataclasses.replace(base, network=network, pairs=pairs))
    stage = PairStage(run, Ranks(pairs.batch // pairs.group, pairs.group), torch.device("cpu"))
    found, chances = [], []
    for step in range(STEPS):
        chosen = np.random.Generator(np.random.Philox(key=[7, step])).choice(len(real), pairs.batch, replace=False)
        stats = stage.step(real[torch.from_numpy(chosen)], Progress(step * pairs.batch))
        found.append(float(stats["real_sign"]))
        chances.append(float(stats.get("augment_p", 0)))
    return means(found, TOGETHER), means(chances, TOGETHER)


@pytest.mark.skipif("MVGAN_TEST_DATA" not in os.environ, reason="MVGAN_TEST_DATA is not set: ADA was not tried on real videos")
def test_the_sign_is_held(tmp_path: Path) -> None:
    """The same networks, seed and pairs. Over the last half the sign is near its target with ADA, and well above it without.

    It is held, and not as near as ADA gets, as in the last quarter the probability is below its limit.
    """
    folder = f"{os.environ['MVGAN_TEST_DATA']}/talker"
    real = real_pairs(tmp_path, folder)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        both = pool.map(signs, [real] * 2, ["none", "ada"])
    curves = dict(zip(("without ADA", "with ADA"), both, strict=True))
    seen = [(place + 1) * TOGETHER * demo().pairs.batch for place in range(STEPS // TOGETHER)]
    draw_curves(
        "ada",
        "pairs seen",
        {
            "mean sign of D on the real pairs it is shown": {name: (seen, values) for name, (values, _) in curves.items()},
            "probability of augmentation": {"with ADA": (seen, curves["with ADA"][1])},
        },
        {"mean sign of D on the real pairs it is shown": TARGET},
    )
    bare, held = (float(np.mean(values[len(values) // 2 :])) for values, _ in curves.values())
    late = curves["with ADA"][1][-len(seen) // 4 :]
    print(f"mean sign over the last half: {bare:.2f} without ADA, {held:.2f} with it, target {TARGET}")
    print(f"probability of augmentation over the last quarter: {min(late):.2f} to {max(late):.2f}")
    assert abs(held - TARGET) <= 0.15 < bare - TARGET and max(late) < 1
