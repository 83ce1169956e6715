"""A batch of videos on Ray: a task per group; what is there already is not made again."""

from collections.abc import Sequence
from typing import Any

from mvgan.batch import Batch, Group, finish, make_group
from mvgan.config import Resources
from mvgan.distributed.resources import check_room
from mvgan.distributed.tasks import run_tasks, task_device
from mvgan.storage.uri import open_store


LOWER = "add memory to the nodes, or lower --frames"
"""What to do when a task needs more memory than there is."""


def generate(run: str, out: str, batch: Batch, groups: Sequence[Group], resources: Resources) -> dict[str, Any]:
    """Make the videos of a batch that has begun; returns its manifest. Ray has been initialised."""
    check_room(resources)
    run, out = open_store(run).uri, open_store(out).uri  # as a task finds them whose folder is another
    arguments = [(run, out, batch, group) for group in groups]
    made = run_tasks(_make, arguments, resources, "generate", "groups of videos", LOWER)
    return finish(out, batch, groups, [entry for entries in made for entry in entries])


def _make(run: str, out: str, batch: Batch, group: Group) -> list[dict[str, Any]]:
    return make_group(run, out, batch, group, task_device())
