"""Evaluation on Ray: a task for some samples each, and for some distances; nothing that is kept is computed again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from mvgan.config import ANOTHER_NAME, Resources
from mvgan.data.shards import ShardSet
from mvgan.distributed.resources import check_room
from mvgan.distributed.tasks import run_tasks, task_device
from mvgan.evaluation.answer import PARTS, answers
from mvgan.evaluation.parts import Part
from mvgan.evaluation.question import Question
from mvgan.evaluation.subject import Subject
from mvgan.storage.run import RunFolder


def evaluate(
    folder: RunFolder, shards: ShardSet, question: Question, real: list[list[Part]], subjects: Sequence[Subject], resources: Resources
) -> Iterator[dict[str, Any]]:
    """The answer to `question` for each of `subjects`, against the `real` parts of each repeat, one by one; Ray has been initialised."""
    room = False

    def each(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], unit: str) -> Iterator[Any]:
        nonlocal room
        if not arguments:
            return iter(())
        if unit == PARTS and not room:  # later ones find the CPUs that those before have just left
            check_room(resources)
            room = True
        lower = f"lower --frames, or --resolution {ANOTHER_NAME}"
        ours = resources if unit == PARTS else replace(resources, gpu=False)
        return run_tasks(_on_device, [(function, *some) for some in arguments], ours, "evaluate", unit, lower)

    return answers(folder, shards, question, real, subjects, each)


def _on_device(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments, task_device())
