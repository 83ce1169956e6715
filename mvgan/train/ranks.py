"""The workers of a training run and the logical shards that each of them hosts."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

from mvgan.config import InputError
from mvgan.train.exposed import Exposed


@dataclass(frozen=True)
class Ranks:
    """Worker `rank` of `world`; together they host `num_shards` logical shards of `group` samples each.

    Worker r hosts the shards r, r + world, ..., or of a part of the batch its `shards`; the batch of a step is the concatenation
    of the shards' groups.
    """

    num_shards: int
    group: int
    rank: int = 0
    world: int = 1
    shards: tuple[int, ...] | None = None
    exposed: Exposed = field(default_factory=Exposed, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.world > self.num_shards:
            raise InputError(
                f"{self.world} workers for {self.num_shards} logical shards; "
                f"take at most {self.num_shards} workers, or a larger batch or smaller group"
            )

    @property
    def hosted(self) -> Sequence[int]:
        """The logical shards of this worker."""
        return range(self.rank, self.num_shards, self.world) if self.shards is None else self.shards

    @property
    def batch(self) -> int:
        """Samples per step over all workers."""
        return self.num_shards * self.group

    def loss(self, values: Tensor) -> Tensor:
        """Values per sample [n] -> this worker's loss, whose average over workers is the mean over the whole batch.

        The weight makes up for workers that host more shards than others.
        """
        return values.mean() * (len(self.hosted) * self.world / self.num_shards)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the whole batch of values [n, ...] along the first dimension; differentiable."""
        total = values.sum(dim=0) / (values.shape[0] // len(self.hosted) * self.num_shards)
        if self.world == 1:
            return total
        with self.exposed.waiting(total.device):
            return all_reduce(total)

    def parallel(self, phase: nn.Module) -> nn.Module:
        """A phase whose backward averages gradients over the workers."""
        return phase if self.world == 1 else self.exposed.watch(phase)

    def parts(self, count: int) -> list["Ranks"]:
        """The batch in `count` parts of whole shards, of which each worker hosts some; means are then over that part of all workers.

        Raises InputError when a worker hosts fewer shards.
        """
        if count == 1:
            return [self]
        if count > self.num_shards // self.world:
            raise InputError(
                f"{count} parts of a worker's {self.num_shards // self.world} logical shards; take at most that for pairs.accumulate, "
                "a smaller pairs.group, or fewer --workers"
            )
        places = [np.array_split(range(rank, self.num_shards, self.world), count) for rank in range(self.world)]
        return [
            Ranks(
                sum(len(split[part]) for split in places), self.group, self.rank, self.world,
                tuple(places[self.rank][part].tolist()), self.exposed,
            )
            for part in range(count)
        ]  # fmt: skip

    def apart(self, phase: nn.Module) -> AbstractContextManager[None]:
        """Within it a pass of `phase`, forward and backward, adds to this worker's gradients and averages none."""
        return phase.no_sync() if isinstance(phase, DistributedDataParallel) else nullcontext()

    def all(self, holds: Tensor) -> Tensor:
        """Whether the boolean scalar `holds` is true on every worker, as such a scalar: nothing waits for the device."""
        if self.world == 1:
            return holds
        least = holds.int()
        dist.all_reduce(least, dist.ReduceOp.MIN)
        return least.bool()

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give all workers what the first one has in `tensors`, in place."""
        for tensor in tensors if self.world > 1 else ():
            whole = tensor.contiguous()  # as collectives ask for
            dist.broadcast(whole, 0)
            tensor.copy_(whole)

    def agree(self, values: Sequence[int], device: torch.device) -> bool:
        """Whether every worker has the same `values`."""
        if self.world == 1:
            return True
        both = torch.tensor([*values, *(-value for value in values)], device=device)
        dist.all_reduce(both, dist.ReduceOp.MAX)
        return both[: len(values)].tolist() == list(values) == (-both[len(values) :]).tolist()

    def gather(self, values: Sequence[float], device: torch.device) -> list[list[float]]:
        """The `values` of each worker, by its rank."""
        gathered = torch.zeros(self.world, len(values), device=device)
        gathered[self.rank] = torch.tensor(values)
        if self.world > 1:
            dist.all_reduce(gathered)
        return gathered.tolist()

    def average(self, stats: Mapping[str, Tensor]) -> dict[str, float]:
        """Scalars averaged over the workers, as floats."""
        names = sorted(stats)
        values = torch.stack([stats[name].detach().float() for name in names])
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return dict(zip(names, values.tolist(), strict=True))
