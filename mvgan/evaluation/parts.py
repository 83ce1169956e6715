"""The work of an evaluation, cut into tasks: a part is some real or generated samples, whose figures one task computes."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvgan.config import InputError
from mvgan.data.shards import ShardSet
from mvgan.data.windows import Item, decode_window
from mvgan.evaluation.kept import Arrays, keep, kept
from mvgan.evaluation.question import TRAINING, Question
from mvgan.evaluation.subject import Subject, pair_generator, video_generator
from mvgan.metrics.clips import ClipSums
from mvgan.metrics.features import ClipFeatures, PairFeatures, full_precision
from mvgan.metrics.networks import FeatureNetwork, NetworkFile, described
from mvgan.metrics.protocol import PROTOCOLS, real_clips
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import Store
from mvgan.train.measure import TOGETHER, drawn_items, generated_pairs


FORMAT = 2
"""Counted up when samples or built-in features are computed otherwise, so that older figures are not taken for the same."""

CLIP_FRAMES = 512
"""Most frames of clips whose figures one task computes, but for a single longer clip."""

FEATURES = ("features", "former", "latter")
"""Arrays [n, d] that are compared; the other figures of a part are small."""


@dataclass(frozen=True)
class Part:
    """Some samples of a measure: real ones, `items` of the shards at `source`, or those of `subject`, `count` from number `start` on.

    content: hash of what they come from. new: whether an item is the first of its video. Clips have `num_frames` frames; the
    number of a video is its seed, and pairs have `seed`.
    """

    measure: str
    source: str
    content: str
    network: NetworkFile | None = None
    items: tuple[Item, ...] = ()
    new: tuple[bool, ...] = ()
    subject: Subject | None = None
    start: int = 0
    count: int = 0
    seed: int = 0
    num_frames: int = 0

    @property
    def key(self) -> str:
        """The name of its figures in the cache: a hash of all that they depend on."""
        about = {
            **asdict(self),
            "format": FORMAT,
            "network": features_sha256(self.measure, self.network),
            "generated": self.subject is not None,
        }
        del about["source"], about["subject"]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


@functools.cache
def features_sha256(measure: str, network: NetworkFile | None) -> str:
    """What the features are computed by: hash of a file, or of the built-in filters."""
    return network.sha256.lower() if network else _built_in(measure, torch.device("cpu")).sha256


def check(folder: RunFolder, shards: ShardSet, question: Question) -> None:
    """Raise InputError when the sizes of frames differ, or the feature network is another or gives no features of such samples."""
    run = folder.run
    if shards.resolution != run.resolution:
        raise InputError(
            f"the shards have frames of {shards.resolution} px and the run of {run.resolution}; give shards of {run.resolution} px"
        )
    if question.network:
        described(question.measure, question.network)
        FeatureNetwork(question.measure, question.network)(
            torch.zeros(2, question.num_frames, 3, run.resolution, run.resolution, dtype=torch.uint8)
        )


def real_parts(folder: RunFolder, shards: ShardSet, question: Question) -> list[list[Part]]:
    """The parts of the real samples of each repeat; none for classes. Raises InputError when the protocol finds too few."""
    if question.measure == "classes":
        return [[] for _ in range(question.repeats)]
    return [
        [
            Part(question.measure, shards.uri, shards.content_hash, question.network, items=tuple(some), new=tuple(new))
            for some, new in zip(_split(items, _together(question)), _split(_first_of_videos(items), _together(question)), strict=True)
        ]
        for items in _real_items(folder, shards, question)
    ]


def _real_items(folder: RunFolder, shards: ShardSet, question: Question) -> list[list[Item]]:
    run = folder.run
    if question.protocol == TRAINING:
        return [drawn_items(shards, run, question.stage, question.generated)]
    names = [video["source"] for video in shards.manifest["videos"]]
    protocol, lengths = PROTOCOLS[question.protocol], shards.lengths.tolist()
    repeats: list[list[Item]] = [[] for _ in range(question.repeats)]
    # Pairs are learned in both orders: each is taken in one, by chance as in training.
    rng = np.random.Generator(np.random.Philox(key=[question.seed, 1]))
    for stride in run.interval if question.num_frames == 2 else (run.stride,):
        offsets = range(0, question.num_frames * stride, stride)
        for items, places in zip(repeats, real_clips(protocol, names, lengths, question.num_frames, question.seed, stride), strict=True):
            for place in places:
                frames = tuple(place.start + offset for offset in offsets)
                backward = question.measure == "pairs" and rng.random() < 0.5
                items.append(Item(place.video, frames[::-1] if backward else frames, False))
    return repeats


def _first_of_videos(items: Sequence[Item]) -> list[bool]:
    """Which of the items are the first of their video."""
    first = {item.video: number for number, item in reversed(list(enumerate(items)))}
    return [first[item.video] == number for number, item in enumerate(items)]


def _together(question: Question) -> int:
    """Samples of a part."""
    return TOGETHER["pairs"] if question.measure == "pairs" else max(1, min(TOGETHER["video"], CLIP_FRAMES // question.num_frames))


def generated_parts(subject: Subject, question: Question) -> list[list[Part]]:
    """The parts of the samples of `subject` in each repeat, in which no sample comes again, nor for another seed."""
    repeats = []
    for repeat in range(question.repeats):
        number = question.seed * question.repeats + repeat
        # By protocol `training` the videos are those of training, whose numbers start at 0.
        first = 0 if question.measure == "pairs" or question.protocol == TRAINING else number * question.generated
        seed = 0 if question.measure != "pairs" else question.seed if question.protocol == TRAINING else number
        repeats.append(
            [
                Part(
                    question.measure, subject.run, subject.sha256, question.network, subject=subject, start=some[0], count=len(some),
                    seed=seed, num_frames=question.num_frames,
                )
                for some in _split(range(first, first + question.generated), _together(question))
            ]
        )  # fmt: skip
    return repeats


def figures_of(part: Part, device: torch.device) -> Arrays:
    """The figures of the samples of `part`: `features` [n, d], of pairs by a file's network `former` and `latter`, of classes
    `probabilities` [n, classes]; of clips also what ClipSums holds.
    """
    with full_precision():
        samples = _real(part) if part.subject is None else _generated(part, part.subject, device)
        found = _features(part.measure, part.network, device)(torch.from_numpy(samples)).numpy()
    if part.measure == "classes":
        return {"probabilities": found}
    if part.measure == "pairs":
        return dict(zip(("former", "latter"), found.swapaxes(0, 1), strict=False)) if part.network else {"features": found}
    sums = ClipSums()
    for clip, new in zip(samples, part.new or [True] * len(samples), strict=True):
        sums.add(clip, new)
    return {"features": found, **sums.arrays}


def _real(part: Part) -> np.ndarray:
    shards = ShardSet.open(part.source, verify=False)
    if shards.content_hash != part.content:
        raise InputError(f"{part.source} has changed since the evaluation began; leave it as it is, and evaluate again")
    return decode_window(shards, part.items)


def _generated(part: Part, subject: Subject, device: torch.device) -> np.ndarray:
    numbers = range(part.start, part.start + part.count)
    if part.measure == "pairs":
        generator, run = _pairs(subject, device)
        with torch.no_grad():
            return generated_pairs(generator, run, part.seed, numbers, device)
    return _videos(subject, device).sample(numbers, part.num_frames)


_pairs = functools.lru_cache(maxsize=1)(pair_generator)
_videos = functools.lru_cache(maxsize=1)(video_generator)
"""Once a process: networks take longer to load than some samples to draw."""


@functools.lru_cache(maxsize=1)
def _features(measure: str, network: NetworkFile | None, device: torch.device) -> Callable[[Tensor], Tensor]:
    return FeatureNetwork(measure, network, device) if network else _built_in(measure, device)


def _built_in(measure: str, device: torch.device) -> PairFeatures | ClipFeatures:
    return PairFeatures(device=device) if measure == "pairs" else ClipFeatures(device=device)


@dataclass(frozen=True)
class Told:
    """What the task of a part tells: its features stay where they are kept.

    arrays: names of its features. figures: the other ones.
    """

    count: int
    arrays: tuple[str, ...]
    figures: Arrays


def compute(store: Store, part: Part, device: torch.device) -> Told:
    """Compute the figures of `part`, and keep them at once, so that an evaluation that is killed goes on from there."""
    figures = figures_of(part, device)
    keep(store, part.key, figures)
    return _told(figures)


def recall(store: Store, part: Part) -> Told:
    """What an evaluation has kept of `part`. Raises Lost."""
    return _told(kept(store, part.key))


def _told(figures: Arrays) -> Told:
    arrays = tuple(key for key in FEATURES if key in figures)
    count = next(len(figures[key]) for key in (*FEATURES, "probabilities") if key in figures)
    return Told(count, arrays, {key: value for key, value in figures.items() if key not in arrays})


def _split(samples: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (samples[start : start + size] for start in range(0, len(samples), size))
