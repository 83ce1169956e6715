"""Workers and logical shards, without processes: weights and means by hand."""

import itertools

import pytest
import torch

from mvgan.config import InputError
from mvgan.train.ranks import Ranks


@pytest.mark.parametrize(("shards", "world"), [(4, 1), (4, 2), (5, 2), (7, 3), (3, 3)])
def test_every_shard_is_hosted_once(shards: int, world: int) -> None:
    hosted = [list(Ranks(shards, 2, rank, world).hosted) for rank in range(world)]
    assert sorted(itertools.chain(*hosted)) == list(range(shards))
    assert max(map(len, hosted)) - min(map(len, hosted)) <= 1
    assert Ranks(shards, 2, 0, world).batch == 2 * shards


@pytest.mark.parametrize(("shards", "world"), [(4, 1), (4, 2), (5, 2), (7, 3)])
def test_the_average_of_the_workers_losses_is_the_mean_of_the_batch(shards: int, world: int) -> None:
    """Reference: the plain mean. DDP averages over workers, so uneven shards need weights."""
    values = torch.randn(shards, 2, dtype=torch.float64)
    losses = [ranks.loss(values[list(ranks.hosted)].flatten()) for ranks in (Ranks(shards, 2, rank, world) for rank in range(world))]
    torch.testing.assert_close(torch.stack(losses).mean(), values.mean())


def test_the_mean_of_one_worker_is_the_mean() -> None:
    """Of any number of samples per shard: path lengths take half of each group."""
    values = torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(Ranks(3, 2).mean(values), values.mean(dim=0))
    torch.testing.assert_close(Ranks(3, 4).mean(values), values.mean(dim=0))


def test_more_workers_than_shards_is_refused() -> None:
    with pytest.raises(InputError, match="5 workers for 4 logical shards; take at most 4 workers"):
        Ranks(4, 2, 0, 5)
