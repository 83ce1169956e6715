"""What a stage is measured against, and the measure of stage 1: whole pairs, and their frames by themselves, as the paper takes its FID."""

import dataclasses

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from mvgan.data.shards import ShardSet
from mvgan.data.windows import clip_windows, decode_window, pair_windows
from mvgan.metrics.features import PairFeatures
from mvgan.storage.run import RunFolder
from mvgan.train.hooks import read_metrics
from mvgan.train.measure import drawn_items, generated_pairs, pair_distance
from mvgan.train.session import load_generator
from tests.unit.conftest import CPU


def scipy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Frechet distance by the formula, with scipy's matrix root; a little noise on the diagonal, as it fails on singular ones."""
    one, other = (np.cov(x.astype(float), rowvar=False) + 1e-12 * np.eye(x.shape[1]) for x in (a, b))
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(one + other - 2 * scipy.linalg.sqrtm(one @ other).real))


def test_frames_are_those_of_both_sides(tiny_run: RunFolder) -> None:
    """The last record of training against the formula, on frames that are cut out here and shown to the features as still pairs."""
    run, last = tiny_run.run, [record for record in read_metrics(tiny_run.store, "pairs") if "frechet_frames" in record][-1]
    count, features = run.pairs.eval_pairs, PairFeatures()
    real = decode_window(ShardSet.open(tiny_run.data), drawn_items(ShardSet.open(tiny_run.data), run, "pairs", count))
    generated = generated_pairs(load_generator(tiny_run), run, run.seed, range(count), CPU)
    sides = [
        [features(torch.from_numpy(np.stack([pairs[:, side]] * 2, 1))).numpy() for pairs in (real, generated)]
        for side in (0, 1)
    ]  # fmt: skip
    assert last["images"] == 64
    assert last["frechet_frames"] == pytest.approx(np.mean([scipy_distance(*both) for both in sides]), rel=1e-3)
    assert last["frechet_frames"] != pytest.approx(last["frechet"], rel=1e-2) and last["frechet_frames_error"] > 0


def figures(real: Tensor, generated: Tensor) -> dict[str, float]:
    network = PairFeatures()
    return pair_distance(*(torch.stack([network(x) for x in (pairs, pairs[:, :1], pairs[:, 1:])], 1) for pairs in (real, generated)))


def test_pairs_that_do_not_belong_together_have_the_frames_of_those_that_do(tiny_run: RunFolder) -> None:
    """The same frames otherwise put together: of the distances only that of pairs grows, and of one side's noise both do."""
    shards = ShardSet.open(tiny_run.data)
    real = torch.from_numpy(decode_window(shards, drawn_items(shards, tiny_run.run, "pairs", 128)))
    same, torn = real.clone(), torch.stack([real[:, 0], real[:, 1].roll(64, 0)], 1)
    noisy = real.clone()
    noisy[:, 1] = (noisy[:, 1].int() + torch.randint(-60, 60, noisy[:, 1].shape)).clamp(0, 255).to(torch.uint8)
    assert figures(real, same)["frechet"] < 1e-6 and figures(real, same)["frechet_frames"] < 1e-6
    assert figures(real, torn)["frechet"] > 0.01 and figures(real, torn)["frechet_frames"] < 1e-6
    assert figures(real, noisy)["frechet_frames"] > 0.01


@pytest.mark.parametrize("stage", ["pairs", "video"])
def test_runs_of_other_seeds_are_measured_on_the_same_real_samples(tiny_run: RunFolder, stage: str) -> None:
    """While the seed does choose what they are trained on, and so what is drawn from windows in general."""
    shards = ShardSet.open(tiny_run.data)
    runs = [dataclasses.replace(tiny_run.run, seed=seed) for seed in (0, 1, 7)]
    first, *others = [drawn_items(shards, run, stage, 16) for run in runs]
    assert len(first) == 16 and others == [first, first]
    windows = clip_windows if stage == "video" else pair_windows
    assert windows(shards, runs[0])[0] != windows(shards, runs[1])[0]
