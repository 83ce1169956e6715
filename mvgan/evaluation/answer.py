"""The way from a question to its results: features of all samples, part by part, then their distances, each a task."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from mvgan.data.shards import ShardSet
from mvgan.evaluation.distances import Comparison, Samples, compared, comparisons, joined
from mvgan.evaluation.parts import Part, Told, generated_parts, tell
from mvgan.evaluation.question import Question
from mvgan.evaluation.result import measure
from mvgan.evaluation.subject import Subject
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import open_store


Each = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]], str], list[Any]]
"""Results of one call for each tuple of arguments, in their order, wherever they are made; the last argument says what they are."""


DISTANCES = "distances"
"""What those results are that need no GPU."""


def answers(
    folder: RunFolder, shards: ShardSet, question: Question, real: list[list[Part]], subjects: Sequence[Subject], each: Each
) -> Iterator[dict[str, Any]]:
    """The answer to `question` for each of `subjects`, against the `real` parts of each repeat, one by one."""
    theirs = _samples(folder, real, "real samples", each)
    for subject in subjects:
        ours = _samples(folder, generated_parts(subject, question), subject.words, each)
        wanted = comparisons(theirs, ours)
        values = each(_compare, [(folder.uri, comparison) for comparison in wanted], DISTANCES) if wanted else []
        yield measure(question, subject, folder, shards, theirs, ours, joined(wanted, values))


def _samples(folder: RunFolder, repeats: list[list[Part]], what: str, each: Each) -> list[Samples]:
    """Those of each repeat, their figures computed where the run folder has none."""
    parts = {part.key: part for repeat in repeats for part in repeat}
    told = dict(zip(parts, each(_tell, [(folder.uri, part) for part in parts.values()], f"parts of {what}"), strict=True)) if parts else {}
    print(f"evaluate: {what}: {len(parts)} parts, {sum(one.known for one in told.values())} of them known", flush=True)
    return [Samples.of([(part.key, told[part.key]) for part in repeat]) for repeat in repeats]


def _tell(run_uri: str, part: Part, device: torch.device) -> Told:
    """The task of one part; its figures are kept at once, so that an evaluation that is killed goes on from there."""
    return tell(open_store(run_uri), part, device)


def _compare(run_uri: str, comparison: Comparison, device: torch.device) -> list[float]:
    """The task of some distances, which are taken on the CPU."""
    return compared(open_store(run_uri), comparison)
