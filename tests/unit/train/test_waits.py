"""Nothing in a step waits for the device, or copies plain numbers to it, of which each would be such a wait."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mvgan.train.hooks import Ticker
from mvgan.train.pairs import PairStage
from mvgan.train.ranks import Ranks
from mvgan.train.stage import Plan, fit
from mvgan.train.state import Progress
from tests.unit.train import test_pairs as pairs
from tests.unit.train import test_video as video


aten: Any = torch.ops.aten
WAITS = (
    aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim,
    aten.lift_fresh, aten.bincount, aten.repeat_interleave.Tensor,
)  # fmt: skip
"""What reads numbers back from a device, has a shape that depends on them, or makes a tensor of plain numbers."""


class Waits(TorchDispatchMode):
    """Notes each operation of `WAITS`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if func in WAITS or func.overloadpacket in WAITS or by_mask:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def pair_stage() -> tuple[Any, Tensor]:
    """With all phases due at each step, in parts, with augmentation that moves."""
    return pairs.build(r1_every=1, pl_every=1, accumulate=2, **pairs.ADA | {"ada_interval": 1}), pairs.batch()


def video_stage() -> tuple[Any, Tensor]:
    """With all discriminators."""
    return video.build(d_i=True), next(video.batches(0))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    """What reads memory of this machine as it is, which no operation shows, is noted as well."""
    waits = Waits()

    def noted(name: str) -> Callable[..., Any]:
        original = getattr(Tensor, name)

        def note(*args: Any, **kwargs: Any) -> Any:
            waits.found.append(name)
            return original(*args, **kwargs)

        return note

    for name in ("tolist", "numpy", "cpu"):
        monkeypatch.setattr(Tensor, name, noted(name))
    return waits


READS: dict[str, Callable[[Tensor], Any]] = {
    "bool": bool,
    "float": float,
    "item": lambda x: x.item(),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[None][x[None] > 0],
    "tensor": lambda x: x + torch.tensor(1.0),
}


@pytest.mark.parametrize("name", READS)
def test_what_waits_is_seen(waits: Waits, name: str) -> None:
    with waits:
        READS[name](torch.ones([]))
    assert waits.found


@pytest.mark.parametrize("made", [pair_stage, video_stage])
def test_a_step_waits_for_nothing(waits: Waits, made: Callable[[], tuple[Any, Tensor]]) -> None:
    stage, batch = made()
    size = len(batch)
    plan, records = Plan(10 * size, size, 10 * size, 10 * size), []
    ticker = Ticker(plan, Ranks(2, size // 2), lambda last, progress, averages: records.append(averages))
    fit(stage, iter([batch] * 2), Progress(), Plan(2 * size, size, 10 * size, 10 * size), [])  # state of the optimizers is made
    waits.found.clear()
    with waits:
        fit(stage, iter([batch] * 7), Progress(2 * size), Plan(9 * size, size, 10 * size, 10 * size), [ticker])
        assert waits.found == [] and records == []
        ticker.after_step(stage, Progress(10 * size), stage.step(batch, Progress(9 * size)))
    assert "tolist" in waits.found, "a record does wait"
    assert records[0]["skipped_steps"] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, which torch asks whether anything has waited for it")
def test_a_step_waits_for_nothing_on_a_gpu() -> None:
    device, run = torch.device("cuda"), pairs.build(**pairs.ADA).run
    stage = PairStage(run, Ranks(2, 4), device)
    batch = pairs.batch().to(device)
    for index in range(12):
        torch.cuda.set_sync_debug_mode("error" if index > 6 else "default")
        stage.step(batch, Progress(8 * index))
    torch.cuda.set_sync_debug_mode("default")
    assert stage.look(96)["g_phase_s"] > 0
