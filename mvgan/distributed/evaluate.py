"""Evaluation on Ray: a task for some samples each; what an earlier evaluation has computed is not computed again."""

from collections.abc import Iterator, Sequence
from typing import Any

from mvgan.config import ANOTHER_NAME, Resources
from mvgan.data.shards import ShardSet
from mvgan.distributed.resources import check_room
from mvgan.distributed.tasks import run_tasks, task_device
from mvgan.evaluation.parts import Arrays, Part, cached, figures_of, generated_parts, keep
from mvgan.evaluation.question import Question
from mvgan.evaluation.result import join, measure
from mvgan.evaluation.subject import Subject
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import open_store


def evaluate(
    folder: RunFolder, shards: ShardSet, question: Question, real: list[list[Part]], subjects: Sequence[Subject], resources: Resources
) -> Iterator[dict[str, Any]]:
    """The answer to `question` for each of `subjects`, against the `real` parts of each repeat, one by one; Ray has been initialised."""
    theirs = _figures(folder, real, resources, "real samples")
    for subject in subjects:
        ours = _figures(folder, generated_parts(subject, question), resources, subject.words)
        yield measure(question, subject, folder, shards, theirs, ours)


def _figures(folder: RunFolder, repeats: list[list[Part]], resources: Resources, what: str) -> list[Arrays]:
    """The figures of each repeat, computed where the run folder has none."""
    parts = list({part.key: part for repeat in repeats for part in repeat}.values())
    found = {part.key: known for part in parts if (known := cached(folder.store, part)) is not None}
    missing = [part for part in parts if part.key not in found]
    print(f"evaluate: {what}: {len(parts)} parts, {len(found)} of them known", flush=True)
    if missing:
        check_room(resources)
        arguments = [(folder.uri, part) for part in missing]
        lower = f"lower --frames, or --resolution {ANOTHER_NAME}"
        figures = run_tasks(_part, arguments, resources, "evaluate", "parts", lower)
        found |= dict(zip((part.key for part in missing), figures, strict=True))
    return [join([found[part.key] for part in repeat]) for repeat in repeats]


def _part(run_uri: str, part: Part) -> Arrays:
    """The task of one part; keeps its figures at once, so that an evaluation that is killed goes on from there."""
    figures = figures_of(part, task_device())
    keep(open_store(run_uri), part, figures)
    return figures
