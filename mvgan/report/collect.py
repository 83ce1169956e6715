"""What a report tells, gathered from a run's folder and measured on its data and networks."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mvgan.config import InputError
from mvgan.data.shards import ShardSet
from mvgan.data.windows import Item, clip_windows, decode_window, pair_windows
from mvgan.metrics.clips import ClipFigures, ClipSums
from mvgan.metrics.features import PairFeatures
from mvgan.metrics.frechet import frechet_distance, frechet_error
from mvgan.metrics.moments import Moments
from mvgan.report.gates import (
    Gate,
    Measure,
    content_gate,
    edit_gates,
    frechet_gate,
    measures,
    missing_gates,
    motion_gate,
)
from mvgan.sample import Generator
from mvgan.storage.run import RECORD, RunFolder
from mvgan.train.export import read_json, read_tensors
from mvgan.train.hooks import History, read_metrics
from mvgan.train.session import plan_of


GATE_VIDEOS = 32
"""Videos generated for gate (c): fresh latents, as of these seeds."""

REAL_CLIPS = 64
"""Most real clips that they are compared with, each of another video."""

MAX_EXTRA_WINDOWS = 20
"""Windows read for a disjoint draw, as a multiple of what a draw needs, before a smaller one is taken."""

FILES = {"pairs": ("generator.safetensors",), "codes": ("codes.safetensors", "codes.json"), "video": ("latent.safetensors",)}
"""What a stage exports when it ends."""


@dataclass(frozen=True)
class Facts:
    """What there is of a run: what has not been made yet is None or empty."""

    folder: RunFolder
    shards: ShardSet
    versions: dict[str, str]
    missing: tuple[str, ...]
    """Stages that have not ended."""
    pairs_history: History
    video_history: History
    codes: dict[str, Any] | None
    """The content of codes.json."""
    code_tensors: dict[str, torch.Tensor] | None
    generator: Generator | None
    """The whole video generator, once all stages have ended."""


def collect(folder: RunFolder) -> Facts:
    """Read the run. Raises InputError when stage 1 has not written its first metrics."""
    store = folder.store
    pairs_history = read_metrics(folder.home("pairs"), "pairs")
    if not pairs_history:
        raise InputError(
            f"run {folder.uri} has no metrics of stage pairs yet; run `python -m jobs.pairs` or `python -m jobs.pipeline` on it first"
        )
    present = store.list("export/")
    missing = tuple(stage for stage, files in FILES.items() if any(f"export/{file}" not in present for file in files))
    has_codes = "codes" not in missing
    return Facts(
        folder=folder,
        shards=ShardSet.open(folder.data, verify=False),
        versions=json.loads(store.read(RECORD)).get("versions", {}),
        missing=missing,
        pairs_history=pairs_history,
        video_history=read_metrics(store, "video"),
        codes=read_json(store, "codes.json") if has_codes else None,
        code_tensors=read_tensors(store, "codes.safetensors", "backward", "forward", "mean_grams") if has_codes else None,
        generator=None if missing else Generator.load(folder.uri),
    )


def all_gates(facts: Facts, real: Measure | None) -> list[Gate]:
    """The verdict, with gate (c) measured here. real: the distance of real to real pairs."""
    run = facts.folder.run
    found = measures(facts.pairs_history)
    gates = [frechet_gate(found, plan_of(run, "pairs", len(facts.shards)).end, run.pairs.eval_pairs, real)]
    gates += missing_gates("codes") if facts.codes is None else edit_gates(facts.codes)
    if facts.generator is None:
        return [*gates, *missing_gates("video")]
    generated, clips = generated_figures(facts.generator, GATE_VIDEOS), real_figures(facts.shards, facts.folder)
    return [*gates, motion_gate(generated, clips), content_gate(generated, clips)]


def real_against_real(shards: ShardSet, folder: RunFolder) -> Measure:
    """The Frechet distance between two draws of real pairs that share none: the least that a generator could reach.

    As many pairs each as in training's measure, or fewer where the data holds no more; `images` says how many.
    """
    first, second = disjoint_draws(shards, folder)
    features = PairFeatures()
    a, b = (features(torch.from_numpy(_decode(shards, items))) for items in (first, second))
    return Measure(len(a), frechet_distance(Moments.of(a), Moments.of(b)), frechet_error(a, b))


def disjoint_draws(shards: ShardSet, folder: RunFolder) -> tuple[list[Item], list[Item]]:
    """Two draws of pairs of equal size, the first as training measures against; no two frames are a pair in both."""
    run = folder.run
    count = run.pairs.eval_pairs
    windows = pair_windows(shards, run, "evaluation")
    needed = -(-count // windows.items_per_window)
    first = [item for index in range(needed) for item in windows[index]][:count]
    used = {_cell(item) for item in first}
    others = pair_windows(shards, run, "evaluation beside")
    second: list[Item] = []
    for index in range(needed * MAX_EXTRA_WINDOWS):
        if len(second) >= count:
            break
        second += [item for item in others[index] if _cell(item) not in used]
    if len(second) < 2:
        # Nearly all pairs of the data are in the first draw: cut it in two.
        cells = sorted(used)
        half = set(cells[: len(cells) // 2])
        first, second = [item for item in first if _cell(item) in half], [item for item in first if _cell(item) not in half]
    size = min(len(first), len(second), count)
    return first[:size], second[:size]


def _cell(item: Item) -> tuple[int, tuple[int, ...]]:
    """What an item shows, in whatever order."""
    return item.video, tuple(sorted(item.frames))


def _decode(shards: ShardSet, items: list[Item], size: int = 64) -> np.ndarray:
    # Neighbours in the data side by side, so that few pieces are decoded twice.
    ordered = sorted(items, key=lambda item: (item.video, min(item.frames)))
    return np.concatenate([decode_window(shards, ordered[start : start + size]) for start in range(0, len(ordered), size)])


def real_clips(shards: ShardSet, folder: RunFolder, count: int) -> Iterator[np.ndarray]:
    """Up to `count` real clips uint8 [t, 3, h, w] at the stride of stage 3, each of another video."""
    windows = clip_windows(shards, folder.run, "evaluation")
    seen: set[int] = set()
    for index in range(-(-4 * count // windows.items_per_window)):
        for item in windows[index]:
            if item.video not in seen and len(seen) < count:
                seen.add(item.video)
                yield decode_window(shards, [item])[0]


def real_figures(shards: ShardSet, folder: RunFolder, count: int = REAL_CLIPS) -> ClipFigures:
    """Gate (c)'s figures of real clips."""
    sums = ClipSums()
    for clip in real_clips(shards, folder, count):
        sums.add(clip)
    return sums.figures()


def generated_figures(generator: Generator, count: int) -> ClipFigures:
    """Gate (c)'s figures of `count` generated videos, as long as the clips of the training."""
    sums = ClipSums()
    for seed in range(count):
        sums.add(generator.sample([seed], generator.run.video.num_frames)[0])
    return sums.figures()
