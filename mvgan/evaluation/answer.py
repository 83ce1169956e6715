"""The way from a question to its results: features of all samples, part by part, then their distances, each a task."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mvgan.data.shards import ShardSet
from mvgan.evaluation.distances import Comparison, Samples, compared, comparisons, joined
from mvgan.evaluation.kept import Lost, keys
from mvgan.evaluation.parts import Part, Told, compute, generated_parts, recall
from mvgan.evaluation.question import Question
from mvgan.evaluation.result import measure
from mvgan.evaluation.subject import Subject
from mvgan.metrics.frechet import BELOW_ZERO
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import open_store


PARTS = "parts"
"""What those results are that need the networks, and a GPU where there is one; all others are read and computed on CPUs."""

Each = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]], str], Iterator[Any]]
"""Results of one call for each tuple of arguments, in their order, wherever they are made; the last argument says what they are."""


def answers(
    folder: RunFolder, shards: ShardSet, question: Question, real: list[list[Part]], subjects: Sequence[Subject], each: Each
) -> Iterator[dict[str, Any]]:
    """The answer to `question` for each of `subjects`, against the `real` parts of each repeat, one by one."""
    theirs = _samples(folder, real, "real samples", each)
    for subject in subjects:
        ours = _samples(folder, generated_parts(subject, question), subject.words, each)
        wanted = comparisons(theirs, ours)
        distances = joined(wanted, list(each(_compare, [(folder.uri, comparison) for comparison in wanted], "distances")))
        for distance in (distance for found in distances for distance in found.values() if distance.value < 0):
            print(f"evaluate: {BELOW_ZERO % distance.value}", flush=True)
        yield measure(question, subject, folder, shards, theirs, ours, distances)


def _samples(folder: RunFolder, repeats: list[list[Part]], what: str, each: Each) -> list[Samples]:
    """Those of each repeat, their figures computed where the run folder has none."""
    parts, known = {part.key: part for repeat in repeats for part in repeat}, keys(folder.store)
    first = {part.key for part in repeats[0]}
    told: dict[str, Told] = {}
    recalled = [part for key, part in parts.items() if key in known]
    for part, found in zip(recalled, each(_recall, [(folder.uri, part) for part in recalled], "kept parts"), strict=True):
        if isinstance(found, Told):
            told[part.key] = _needed(found, part.key in first)
        else:
            print(f"evaluate: {found}, and computed again", flush=True)
    print(f"evaluate: {what}: {len(parts)} parts, {len(told)} of them known", flush=True)
    missing = [part for key, part in parts.items() if key not in told]
    for part, found in zip(missing, each(_compute, [(folder.uri, part) for part in missing], PARTS), strict=True):
        told[part.key] = _needed(found, part.key in first)
    return [_together([(part.key, told[part.key]) for part in repeat]) for repeat in repeats]


def _needed(told: Told, first: bool) -> Told:
    """What is needed of it here: sums over clips of the first repeat alone, for they are frames. As arrays that Ray need not hold."""
    return replace(told, figures={name: np.array(value) for name, value in told.figures.items() if first or name == "probabilities"})


def _together(parts: list[tuple[str, Told]]) -> Samples:
    samples = Samples()
    for key, told in parts:
        samples.add(key, told)
    return samples


def _compute(run_uri: str, part: Part, device: torch.device) -> Told:
    return compute(open_store(run_uri), part, device)


def _recall(run_uri: str, part: Part, device: torch.device) -> Told | str:
    """What is kept of a part, or why it is not."""
    try:
        return recall(open_store(run_uri), part)
    except Lost as error:
        return str(error)


def _compare(run_uri: str, comparison: Comparison, device: torch.device) -> list[float]:
    return compared(open_store(run_uri), comparison)
