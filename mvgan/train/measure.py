"""The measure of a stage against real data: taken during training to find the best commit, and by `evaluate`.

Samples are drawn by seed and number alone, so that the weights of a commit give the same figure again.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mvgan.config import Run
from mvgan.data.shards import ShardSet
from mvgan.data.windows import Item, clip_windows, decode_window, pair_windows
from mvgan.metrics.features import ClipFeatures, PairFeatures, full_precision
from mvgan.metrics.frechet import frechet_distance, frechet_error
from mvgan.metrics.moments import Moments
from mvgan.nets.generator import Generator
from mvgan.sample import Generator as VideoGenerator
from mvgan.train.pairs import to_uint8
from mvgan.train.state import Draws


Features = Callable[[Tensor], Tensor]
"""Maps samples uint8 [n, t, 3, h, w] to features, [n, d], or [n, k, d] of k kinds."""

CHUNK = 64
"""Pairs generated at once; what a pair is depends on its chunk."""

TOGETHER = {"pairs": 256, "video": 32}
"""Samples of a stage whose features are computed together, whole chunks of pairs."""


def drawn_items(shards: ShardSet, run: Run, stage: str, count: int, purpose: str = "evaluation") -> list[Item]:
    """`count` real pairs or clips, drawn as in training but from windows of their own.

    They are the same for every seed of a run, so that runs that differ by their seed are compared on the same ones.
    """
    run = dataclasses.replace(run, seed=0)
    windows = pair_windows(shards, run, purpose) if stage == "pairs" else clip_windows(shards, run, purpose)
    needed = -(-count // windows.items_per_window)
    return [item for index in range(needed) for item in windows[index]][:count]


def generated_pairs(generator: Generator, run: Run, seed: int, numbers: range, device: torch.device) -> np.ndarray:
    """The pairs of `seed` with these numbers, whole chunks or up to the last one: uint8 [n, 2, 3, h, w], computed in float32."""
    parts = []
    for start in range(numbers.start, numbers.stop, CHUNK):
        draws = Draws(seed, "evaluation", start, [0], min(CHUNK, numbers.stop - start), device)
        w = generator.mapping(draws.normal(run.network.z_dim))
        parts.append(to_uint8(generator.synthesis(w, draws.noise(generator.synthesis.noise_shapes()), torch.float32)))
    return np.concatenate(parts)


def distance(real: Tensor, generated: Tensor) -> dict[str, float]:
    """Frechet distance of two sets of features [n, d], with its bootstrap error, and their diversity: generated over real variance."""
    ours, theirs = Moments.of(generated), Moments.of(real)
    return {
        "frechet": frechet_distance(theirs, ours),
        "frechet_error": frechet_error(real, generated),
        "diversity": float(ours.covariance.trace() / theirs.covariance.trace().clamp_min(1e-12)),
    }


def pair_distance(real: Tensor, generated: Tensor) -> dict[str, float]:
    """`distance` of whole pairs, and `frechet_frames`: the mean of those of former and of latter frames, as the paper has its FID.

    Features [n, 3, d]: of the pair, of its former and of its latter frame by itself. Those of single frames are [n, 1, d].
    """
    theirs, ours = (features[:, 1:] if features.shape[1] > 1 else features for features in (real, generated))
    sides = zip(theirs.unbind(1), ours.unbind(1), strict=True)
    return {
        **distance(real[:, 0], generated[:, 0]),
        "frechet_frames": float(np.mean([frechet_distance(Moments.of(one), Moments.of(other)) for one, other in sides])),
        "frechet_frames_error": frechet_error(theirs, ours),
    }


def pair_measure(shards: ShardSet, run: Run, generator: Generator, device: torch.device) -> Callable[[], dict[str, float]]:
    """Takes `pair_distance` of `generator`, as it is then, to `run.pairs.eval_pairs` real pairs, in seeded features (not FID)."""
    network, count = PairFeatures(device=device), run.pairs.eval_pairs

    def features(pairs: Tensor) -> Tensor:
        frames = pairs.split(1, dim=1) if pairs.shape[1] > 1 else ()
        return torch.stack([network(some) for some in (pairs, *frames)], 1)

    def generated(numbers: range) -> np.ndarray:
        return generated_pairs(generator, run, run.seed, numbers, device)

    return _measure(features, shards, drawn_items(shards, run, "pairs", count), generated, TOGETHER["pairs"], pair_distance)


def clip_measure(shards: ShardSet, run: Run, generator: VideoGenerator, device: torch.device) -> Callable[[], dict[str, float]]:
    """Takes the distance of `generator`, as it is then, to `run.video.eval_clips` real clips, in seeded features (not FVD)."""
    features, count = ClipFeatures(device=device), run.video.eval_clips

    def generated(numbers: range) -> np.ndarray:
        return generator.sample(numbers, run.video.num_frames)

    return _measure(features, shards, drawn_items(shards, run, "video", count), generated, TOGETHER["video"], distance)


def _measure(
    features: Features,
    shards: ShardSet,
    items: Sequence[Item],
    generated: Callable[[range], np.ndarray],
    together: int,
    compared: Callable[[Tensor, Tensor], dict[str, float]],
) -> Callable[[], dict[str, float]]:
    parts = [range(start, min(start + together, len(items))) for start in range(0, len(items), together)]

    def joined(samples: Callable[[range], np.ndarray]) -> Tensor:
        with full_precision():
            return torch.cat([features(torch.from_numpy(samples(part))) for part in parts])

    real = joined(lambda part: decode_window(shards, [items[i] for i in part]))
    return lambda: compared(real, joined(generated))
