"""Stateless randomness, state as bytes, and the averaged generator."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mvgan.train.ema import ema_beta, update_ema
from mvgan.train.state import Draws, from_bytes, seed_of, to_bytes


CPU = torch.device("cpu")


def draws(seed: int = 0, purpose: str = "test", images: int = 64, shards: Any = range(3), group: int = 2) -> Draws:
    return Draws(seed, purpose, images, shards, group, CPU)


def drawn(source: Draws) -> list[Tensor]:
    """A series of all kinds, as a step draws them."""
    noise = source.noise({0: 4, 1: 8}, 2)
    return [source.normal(5), source.uniform(), noise(0, 4), noise(1, 8), source.normal(2, 3)]


def test_draws_depend_on_nothing_but_their_key() -> None:
    """The same key gives the same numbers whatever torch's own generator went through; any part of the key matters."""
    first = drawn(draws())
    torch.manual_seed(123)
    torch.randn(7)
    assert all(torch.equal(a, b) for a, b in zip(first, drawn(draws()), strict=True))
    others = [draws(seed=1), draws(purpose="other"), draws(images=65), draws(shards=range(3, 6))]
    assert not any(torch.equal(first[0], drawn(other)[0]) for other in others)


@pytest.mark.parametrize("world", [2, 3])
def test_the_union_over_workers_is_what_one_worker_draws(world: int) -> None:
    """Reference: one worker with all shards; worker r hosts the shards r, r + world, ..."""
    whole = drawn(draws(shards=range(5)))
    parts = [drawn(draws(shards=range(rank, 5, world))) for rank in range(world)]
    for number, one in enumerate(whole):
        rows = one.unflatten(0, (5, -1))
        for rank in range(world):
            mine = parts[rank][number].unflatten(0, (len(range(rank, 5, world)), -1))
            for place, shard in enumerate(range(rank, 5, world)):
                assert torch.equal(mine[place], rows[shard])


def test_shards_and_samples_differ() -> None:
    rows = draws(shards=range(4), group=3).normal(8)
    assert len({tuple(row) for row in rows.tolist()}) == 12


def test_distributions() -> None:
    """Reference: means and deviations of N(0, 1) and U(0, 1), over many small streams: their seeds must not correlate."""
    normal = torch.cat([draws(images=i).normal(2) for i in range(500)])
    uniform = torch.cat([draws(images=i).uniform(2) for i in range(500)])
    assert abs(normal.mean().item()) < 0.05 and abs(float(normal.std()) - 1) < 0.05
    assert abs(float(uniform.mean()) - 0.5) < 0.02 and abs(float(uniform.std()) - 12**-0.5) < 0.02


def test_noise_is_shared_by_the_frames_of_a_clip() -> None:
    """Rows of n clips with t frames each: one map per clip and layer, another for the next clip and layer."""
    noise = draws(group=2).noise({0: 8, 1: 8}, 4)
    maps = noise(0, 8)
    assert maps.shape == (24, 1, 8, 8)
    clips = maps.reshape(6, 4, 64)
    assert torch.equal(clips, clips[:, :1].expand_as(clips))
    assert len({tuple(row) for row in clips[:, 0].tolist()}) == 6
    assert not torch.equal(noise(1, 8), maps)


def test_seeds() -> None:
    """Stable (a resumed run must find the same), separated, and within what torch and numpy take."""
    assert seed_of(0, "init") == seed_of(0, "init")
    assert seed_of(1, 23) != seed_of(12, 3)
    seeds = {seed_of(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900 and all(0 <= seed < 2**63 for seed in seeds)


def test_state_goes_through_bytes() -> None:
    state = {"net": {"weight": torch.randn(3).to(torch.bfloat16)}, "step": 3, "betas": (0.0, 0.99), "names": ["a"]}
    back = from_bytes(to_bytes(state))
    assert torch.equal(back["net"]["weight"], state["net"]["weight"]) and back["step"] == 3 and back["betas"] == (0.0, 0.99)


class Malicious:
    """Runs code when it is read by a plain pickle."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("code was run",))


def test_reading_a_state_runs_no_code() -> None:
    with pytest.raises(Exception, match=r"Weights only load failed|Unsupported"):
        from_bytes(to_bytes({"x": Malicious()}))


@pytest.mark.parametrize(
    ("images", "expected"),
    [(10_000_000, 0.5 ** (32 / 10_000)), (100_000, 0.5 ** (32 / 5_000)), (32, 0.5**20), (0, 0.0)],
)
def test_ema_beta(images: int, expected: float) -> None:
    """Reference: StyleGAN2-ADA: 0.5 ** (batch / min(half-life, rampup * images)), here with 10 kimg, 0.05 and a batch of 32."""
    assert ema_beta(images, 32, 10.0, 0.05) == pytest.approx(expected)


def test_the_half_life_is_what_it_says() -> None:
    """10,000 images on, half of the old average is left."""
    assert ema_beta(10**9, 50, 10.0, 0.05) ** 200 == pytest.approx(0.5)


def test_ema_update() -> None:
    """Reference: the formula, for parameters; buffers are copied."""
    torch.manual_seed(0)
    average, model = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    for net in (average, model):
        nn.init.normal_(net.weight)
        nn.init.normal_(net.running_mean)
    before = copy.deepcopy(average)
    update_ema(average, model, 0.9)
    torch.testing.assert_close(average.weight, 0.9 * before.weight + 0.1 * model.weight)
    assert torch.equal(average.running_mean, model.running_mean)
