"""What becomes of a training whose workers have ended: without Ray."""

import os
import signal
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from mvgan.config import Resources
from mvgan.distributed import trainer as module
from mvgan.distributed.stop import Terminated, awaited, stoppable
from mvgan.distributed.trainer import Beside, _fit
from mvgan.storage.run import RunFolder


class Draining:
    """A cluster one of whose nodes is being taken away, which was told before anything else."""

    why = "a node of its workers will be taken away"

    def __init__(self, resources: Resources) -> None:
        self.resources = resources

    def start(self) -> Any:
        return nullcontext(self.resources)

    def look(self, node_ids: set[str], begun: bool) -> str:
        return self.why


@pytest.mark.parametrize("terminated", [False, True])
def test_sigterm_while_workers_commit_for_another_reason_starts_nothing(
    terminated: bool, tiny_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers have committed and ended, as a node goes: another start claims an epoch, unless the whole command has to end."""
    claimed, said, ends = list[int](), list[str](), [False]

    def claim(folder: RunFolder, stage: str, after: int = 0) -> int:
        claimed.append(after + 1)
        return after + 1

    def bound(*_: object) -> None:
        if ends[0]:
            return
        ends[0] = True
        if terminated:
            os.kill(os.getpid(), signal.SIGTERM)
        raise ray.exceptions.RayError

    out = SimpleNamespace(say=said.append)
    replaced: dict[str, Any] = {
        "exported": lambda uri, stage: nullcontext(SimpleNamespace(tell=None)), "console": lambda store, name, tell: nullcontext(out),
        "Elastic": Draining, "_trainer": lambda *_: SimpleNamespace(fit=None), "has_stopped": lambda error: True, "_claim": claim,
        "bound": awaiting(bound),
    }  # fmt: skip
    for name, value in replaced.items():
        monkeypatch.setattr(module, name, value)
    with pytest.raises(Terminated) if terminated else nullcontext(), stoppable(0):
        _fit(tiny_run, "pairs", Resources(), Beside())
    assert claimed == ([1] if terminated else [1, 2]) and len(said) == len(claimed) - 1


def awaiting(bound: Any) -> Any:
    """`bound` within `awaited`, as the real one is."""

    def wrapped(*arguments: object) -> None:
        with awaited():
            bound(*arguments)

    return wrapped
