"""What stands on each node while a cluster is examined. Imports little, so that it begins where much is wrong."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from mvgan.doctor.facts import MEMORY_FOLDER, Access, Disk, disk, try_runs, try_videos, versions


@dataclass(frozen=True)
class Facts:
    """What a node has."""

    versions: dict[str, str]
    memory: Disk
    """/dev/shm."""
    store_folder: str
    """Where Ray's object store is, of `store_bytes`; empty where its raylet could not be found."""
    store_bytes: int
    spill: Disk | None
    """Where Ray spills to; None as above."""
    gpus: int
    """Those that torch sees."""


class Probe:
    """Measures on its node. Takes no CPU, so that it finds room on a full one and on a head without any."""

    def facts(self, gpu: bool) -> Facts:
        """gpu: whether GPUs are to be counted, which takes torch some time."""
        flags = raylet_flags(os.getpid())
        spill = flags.get("fallback_directory")
        return Facts(
            versions(),
            disk(MEMORY_FOLDER),
            flags.get("plasma_directory", ""),
            int(flags.get("object_store_memory", 0)),
            disk(spill, write=True) if spill else None,
            _gpus() if gpu else 0,
        )

    def now(self) -> float:
        """The node's clock."""
        return time.time()

    def runs(self, uri: str, folder: str, name: str, seen: bool, longest_s: float) -> Access:
        """As `try_runs`."""
        return try_runs(uri, folder, name, seen, longest_s)

    def videos(self, uri: str, longest_s: float) -> Access:
        """As `try_videos`."""
        return try_videos(uri, longest_s)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def raylet_flags(pid: int) -> dict[str, str]:
    """The flags of the raylet that has started process `pid`; none where it is not seen, as from a container of one's own."""
    while pid > 1:
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
        if Path(words[0]).name == "raylet":
            return {name.lstrip("-"): value for name, _, value in (word.partition("=") for word in words[1:])}
        # The name of the program, in parentheses, may hold anything; its parent is the second field after it.
        pid = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return {}
