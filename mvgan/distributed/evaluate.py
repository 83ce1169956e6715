"""Evaluation on Ray: a task for some samples each; what an earlier evaluation has computed is not computed again."""

from collections.abc import Sequence
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
) -> list[dict[str, Any]]:
    """The answer to `question` for each of `subjects`, against the `real` parts of each repeat; Ray has been initialised."""
    generated = [generated_parts(subject, question) for subject in subjects]
    parts = [part for repeats in (real, *generated) for repeat in repeats for part in repeat]
    found = _figures(folder, list({part.key: part for part in parts}.values()), resources)

    def joined(repeats: list[list[Part]]) -> list[Arrays]:
        return [join([found[part.key] for part in repeat]) for repeat in repeats]

    theirs = joined(real)
    return [measure(question, subject, folder, shards, theirs, joined(ours)) for subject, ours in zip(subjects, generated, strict=True)]


def _figures(folder: RunFolder, parts: Sequence[Part], resources: Resources) -> dict[str, Arrays]:
    """The figures of all parts by their keys, computed where the run folder has none."""
    found = {part.key: known for part in parts if (known := cached(folder.store, part)) is not None}
    missing = [part for part in parts if part.key not in found]
    print(f"evaluate: {len(parts)} parts, {len(found)} of them known", flush=True)
    if missing:
        check_room(resources)
        arguments = [(folder.uri, part) for part in missing]
        lower = f"lower --frames, or --resolution {ANOTHER_NAME}"
        figures = run_tasks(_part, arguments, resources, "evaluate", "parts", lower)
        found |= dict(zip((part.key for part in missing), figures, strict=True))
    return found


def _part(run_uri: str, part: Part) -> Arrays:
    """The task of one part; keeps its figures at once, so that an evaluation that is killed goes on from there."""
    figures = figures_of(part, task_device())
    keep(open_store(run_uri), part, figures)
    return figures
