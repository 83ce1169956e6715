"""The probability of augmentation: ADA's schedule by hand, and what is drawn for whom."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from mvgan.config import InputError, Pairs, Run
from mvgan.train.augment import Augmentation
from mvgan.train.ranks import Ranks
from mvgan.train.state import Draws, Progress
from mvgan.validation import validate


CPU = torch.device("cpu")


def build(**changes: Any) -> Augmentation:
    run = Run(resolution=8, pairs=Pairs(batch=10, group=5, **changes))
    return Augmentation(run, Ranks(2, 5), CPU)


def logits(right: int) -> Tensor:
    """Logits of 10 real pairs, of which D takes `right` for real."""
    return torch.cat([torch.full((right,), 0.3), torch.full((10 - right,), -2.0)])


def follow(augmentation: Augmentation, rights: list[int], images: int = 0) -> list[float]:
    """p after each step."""
    return [
        float(augmentation.observe(logits(n), torch.tensor(True), Progress(images + 10 * step))["augment_p"])
        for step, n in enumerate(rights)
    ]


def test_schedule_of_ada() -> None:
    """Reference: by hand. 2 steps of 10 pairs move p by 20 / 100; of (7, 10) right the mean sign is 0.7, of (10, 6) it is 0.6.

    p stays within 0 and 1, whole means are compared, not single steps, and a mean at the target moves nothing.
    """
    ada = build(augment="ada", ada_interval=2, ada_kimg=0.1)
    assert follow(ada, [5, 10]) == [0, 0]
    assert follow(ada, [7, 10, 10, 7]) == pytest.approx([0, 0.2, 0.2, 0.4])
    assert follow(ada, [2, 10, 10, 6]) == pytest.approx([0.4, 0.2, 0.2, 0.2])
    assert follow(ada, [10] * 10)[-1] == 1
    assert follow(ada, [0, 0]) == pytest.approx([1, 0.8])


def test_moves_are_due_by_images() -> None:
    """Counted from image 0, with the signs of the steps before: a resumed run moves p when the unbroken one does."""
    settings: dict[str, Any] = {"augment": "ada", "ada_interval": 4, "ada_kimg": 0.4}
    ada, resumed = build(**settings), build(**settings)
    # Of the four steps 29 of 40 are right, a mean sign of 0.45; of the last two alone it would be 0.9.
    assert follow(ada, [5, 5, 10]) == [0, 0, 0]
    resumed.load_state_dict(ada.state_dict())
    assert follow(resumed, [9], images=30) == follow(ada, [9], images=30) == [0]
    assert follow(ada, [10, 10, 10, 10], images=40) == pytest.approx([0, 0, 0, 0.1])
    fresh = build(**settings)
    assert follow(fresh, [9], images=30) == pytest.approx([0.1])


def test_the_default_speed_is_that_of_the_paper() -> None:
    """Reference: StyleGAN2-ADA, Sec. 3.1: from 0 to 1 in 500,000 images, moved every 4 batches, target 0.6."""
    ada = build(augment="ada")
    assert follow(ada, [9] * 8) == pytest.approx([0, 0, 0, 8e-5, 8e-5, 8e-5, 8e-5, 16e-5])
    assert follow(ada, [8] * 4)[-1] == pytest.approx(16e-5), "a mean sign of 0.6 is the target"


def test_logits_that_are_no_numbers_do_not_stay() -> None:
    """Their step is left out: they move nothing, whether alone since the last move or between others."""
    ada = build(augment="ada", ada_interval=2, ada_kimg=0.1)
    for step in (0, 1, 2):
        assert ada.observe(torch.full((10,), float("nan")), torch.tensor(False), Progress(10 * step)) == {"augment_p": 0}
    assert follow(ada, [10], 30) == pytest.approx([0.2])
    ada.observe(torch.full((10,), float("nan")), torch.tensor(False), Progress(40))
    assert follow(ada, [7], 50) == pytest.approx([0]), "a mean sign of 0.4, not of 0.2 over a step that was left out"
    ada.observe(logits(10), torch.tensor(False), Progress(60))  # as where only gradients are no numbers
    assert follow(ada, [7], 70) == pytest.approx([0]), "a mean sign of 0.4, not of 1.4 with that of the step that was left out"


def test_a_fixed_probability_stays() -> None:
    fixed = build(augment="fixed", augment_p=0.3, ada_interval=1)
    assert follow(fixed, [0, 10, 10]) == pytest.approx([0.3] * 3)


def test_without_augmentation() -> None:
    """D sees the very frames, no number is drawn, nothing is logged."""
    none = build()
    draws, untouched = (Draws(0, "test", 0, range(2), 5, CPU) for _ in range(2))
    frames = torch.rand(10, 2, 3, 8, 8)
    assert none.shown(draws)(frames) is frames and none.observe(logits(10), torch.tensor(True), Progress()) == {}
    assert torch.equal(draws.uniform(3), untouched.uniform(3))


def test_each_call_draws_anew_and_the_same_again_for_the_same_step() -> None:
    """And per logical shard: the pairs of a shard are augmented alike wherever it is hosted."""
    fixed = build(augment="fixed", augment_p=0.9)
    frames = torch.rand(1, 2, 3, 8, 8).expand(10, -1, -1, -1, -1)

    def shown(shards: range, images: int = 0) -> list[Tensor]:
        once = fixed.shown(Draws(0, "test", images, shards, 5, CPU))
        return [once(frames[: 5 * len(shards)]) for _ in range(2)]

    first, second = shown(range(2))
    assert not torch.equal(first, second) and not torch.equal(first, shown(range(2), 10)[0])
    assert torch.equal(first, shown(range(2))[0])
    for shard in range(2):
        torch.testing.assert_close(shown(range(shard, shard + 1))[1], second[5 * shard : 5 * shard + 5])


@pytest.mark.parametrize(
    ("name", "value"), [("augment_p", 0.0), ("augment_p", 1.5), ("ada_target", 1.1), ("ada_kimg", 0), ("ada_interval", 0)]
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    run = Run(pairs=dataclasses.replace(Pairs(), **{name: value}))
    with pytest.raises(InputError, match=f"pairs.{name}"):
        validate(run)
