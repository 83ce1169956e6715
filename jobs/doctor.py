"""Whether a cluster, or this machine, is fit for a run."""

import math
from dataclasses import dataclass

from jobs._cli import Machines, main
from mvgan.config import Ended, InputError
from mvgan.distributed.doctor import Plan, examine
from mvgan.distributed.resources import session
from mvgan.doctor.findings import fits, merged, table
from mvgan.storage.uri import open_store
from mvgan.validation import validate_resources


@dataclass(frozen=True)
class Flags(Machines):
    """Flags of this verb."""

    storage: str | None = None
    """Folder or s3:// prefix that is to hold the runs: what each node may do there is tried with objects that are removed again."""
    videos: str | None = None
    """Folder or s3:// prefix of the videos, which is only read."""
    wait_s: float = 0
    """Seconds to wait for nodes that the cluster starts when it is asked (an autoscaling one, as after `ray up`); they cost from then on
    until they have been idle. 0 takes the nodes that there are."""
    answer_s: float = 60
    """Seconds within which a node must have answered each question, and the workers must have begun."""


def run(flags: Flags) -> None:
    """Print a table of what was found. Raises Ended when something is wrong, or was left unchecked."""
    for name, seconds, least in (("wait-s", flags.wait_s, 0), ("answer-s", flags.answer_s, 5)):
        if not least <= seconds < math.inf:
            raise InputError(f"--{name} is {seconds}; give seconds from {least} on")
    validate_resources(flags.resources)
    for uri in (flags.storage, flags.videos):
        if uri is not None:
            open_store(uri)
    plan = Plan(flags.resources, flags.storage, flags.videos, flags.wait_s, flags.answer_s)
    with session(flags.resources):
        found, nodes = examine(plan)
    lines = merged(found, nodes)
    print("\n".join(table(lines)), flush=True)
    if not fits(found):
        wrong, unchecked = (sum(line.state == state for line in lines) for state in ("WRONG", "not checked"))
        raise Ended(f"doctor: {wrong} wrong, {unchecked} not checked; the table says what to do")
    print(f"doctor: nothing is wrong; nodes: {nodes}, workers: {flags.resources.workers}")


if __name__ == "__main__":
    main(
        run,
        Flags,
        "Before money is spent: look at every node of the cluster (or at this machine) and tell in a table what is wrong and what to do. "
        "Versions, /dev/shm, the disk that Ray spills to, clocks, rights on the storage and its round trip, CPUs for workers and decoding, "
        "GPUs, and how fast workers exchange gradients. Exit status 0 when all fits, 1 when something is wrong or could not be checked.",
    )
