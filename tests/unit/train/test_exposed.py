"""The exposed time of communication against waits of known length, between two gloo workers."""

import multiprocessing
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mvgan.train.exposed import LAG, SLOWEST, WORKERS, Exposed, straggler
from mvgan.train.ranks import Ranks
from tests.unit.train.leave import leave


SLEEPS = (0.0, 0.4, 0.0)
"""Seconds by which the second worker comes late to its backward pass, in three steps."""


class Slow(torch.autograd.Function):
    """Does nothing, but for a while in the backward pass."""

    @staticmethod
    def forward(ctx: object, x: Tensor, seconds: float) -> Tensor:
        ctx.seconds = seconds  # type: ignore[attr-defined]
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        time.sleep(ctx.seconds)  # type: ignore[attr-defined]
        return grad, None


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    exposed, net = Exposed(), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    phases, found = [exposed.watch(net), exposed.watch(nn.Linear(3, 1))], []
    for late in SLEEPS:
        for phase in phases:  # of a step
            Slow.apply(phase(torch.ones(2, 3)), late * rank).sum().backward()
            exposed.backward_ended()
        found.append(exposed.take())
    assert exposed.take() == 0
    ranks = Ranks(2, 2, rank, 2)
    waits, shards = zip(*ranks.gather([found[1], len(ranks.hosted)], torch.device("cpu")), strict=True)
    told = straggler(waits, shards)
    assert told == {SLOWEST: 1, LAG: pytest.approx(0.8, abs=0.4), WORKERS: 2}, told
    time.sleep(0.4 * rank)  # the second is late on the way forward, as by reading its batch
    assert ranks.mean(torch.tensor([1.0, 2.0])).item() == 1.5
    assert (ranks.exposed.take() > 0.25) == (rank == 0)
    torch.save(found, f"{folder}/{rank}.pt")
    leave()


def test_it_is_the_wait_for_others(tmp_path: Path) -> None:
    """The first worker waits for the second in both phases of the second step, by which the second hides nothing of its own."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(rank, str(tmp_path))) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert 0.75 < first[1] < 2 and second[1] < 0.4
    assert 0 < first[2] < 0.4, "waits of an earlier step are told again"


def test_the_worker_that_waits_least_is_behind() -> None:
    """By hand: the median of the others is 0.5, and in between 0.5 and 0.9."""
    assert straggler([0.5, 0.9, 0.1, 0.5], [1] * 4) == {SLOWEST: 2, LAG: pytest.approx(0.4), WORKERS: 4}
    assert straggler([0.5, 0.1, 0.9], [2] * 3) == {SLOWEST: 1, LAG: pytest.approx(0.6), WORKERS: 3}


def test_a_worker_with_more_logical_shards_is_not_behind() -> None:
    """Eight shards on seven workers: the first has two, and all wait for it. Of two workers with three shards none is told."""
    hosted = [len(Ranks(8, 4, rank, 7).hosted) for rank in range(7)]
    assert straggler([0.0, 0.5, 0.5, 0.5, 0.1, 0.5, 0.5], hosted) == {SLOWEST: 4, LAG: pytest.approx(0.4), WORKERS: 7}
    assert straggler([0.0, 0.5], [len(Ranks(3, 4, rank, 2).hosted) for rank in range(2)]) == {WORKERS: 2}
