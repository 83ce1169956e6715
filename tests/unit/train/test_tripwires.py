"""Signs that a training goes wrong: said when they come up, once, with what to change, and not before."""

import dataclasses

import pytest
import torch

from mvgan.config import Pairs, Run
from mvgan.train.augment import Augmentation
from mvgan.train.ranks import Ranks
from mvgan.train.state import Progress
from mvgan.train.tripwires import PAIRS, Tripwire, Tripwires, tripped, wires_of


def said(wires: tuple[Tripwire, ...], metric: str, values: list[float]) -> list[str]:
    lines: list[str] = []
    tripwires = Tripwires(wires, lines.append)
    for number, value in enumerate(values):
        tripwires.look(8 * number, {metric: value, "other": 0.0})
    return lines


@pytest.mark.parametrize(("metric", "bad", "good"), [("d_loss", 0.01, 0.5), ("augment_p", 1.0, 0.6), ("diversity", 0.1, 0.9)])
def test_a_sign_is_said_once_each_time_it_comes_up(metric: str, bad: float, good: float) -> None:
    times = next(wire.times for wire in PAIRS if wire.metric == metric)
    assert said(PAIRS, metric, [good, *[bad] * (times - 1), good]) == [], "too early"
    (line,) = said(PAIRS, metric, [good, *[bad] * (times + 5)])
    assert line.startswith(f"warning: at {8 * times} ") and f"{bad:.3g}" in line and "another --name" in line
    assert len(said(PAIRS, metric, [good, *[bad] * times, good, *[bad] * times])) == 2


@pytest.mark.parametrize(("metric", "bad", "good"), [("d_loss", 0.01, 0.5), ("augment_p", 1.0, 0.6), ("diversity", 0.1, 0.9)])
def test_what_holds_now_is_told_from_the_history(metric: str, bad: float, good: float) -> None:
    """Not what has passed, not the untrained network, and not too few records."""
    times = next(wire.times for wire in PAIRS if wire.metric == metric)

    def now(*values: float) -> list[str]:
        return tripped(PAIRS, [{"images": 8 * number, metric: value} for number, value in enumerate(values)])

    assert now() == now(bad) == now(bad, *[bad] * (times - 1)) == now(good, *[bad] * times, good) == []
    (line,) = now(good, *[bad] * times)
    assert f"{bad:.3g}" in line


def ticks_of_p(right: float, start: float) -> list[float]:
    """Mean p of 40 ticks of 400 pairs, of a D that takes real pairs for real with probability `right`."""
    augmentation = Augmentation(Run(pairs=Pairs(batch=8, augment="ada", ada_kimg=3)), Ranks(2, 4), torch.device("cpu"))
    augmentation.p.fill_(start)
    draw = torch.Generator().manual_seed(0)
    ps = []
    for step in range(40 * 50):
        logits = (torch.rand(8, generator=draw) < right).float() - 0.5
        ps.append(float(augmentation.observe(logits, torch.tensor(True), Progress(8 * step))["augment_p"]))
    return torch.tensor(ps, dtype=torch.float64).reshape(40, 50).mean(1).tolist()


@pytest.mark.parametrize("right", [0.865, 0.9])
def test_p_that_jitters_below_its_limit_trips(right: float) -> None:
    """Mean signs of 0.73 and 0.8 against a target of 0.6: single moves go down, so that means of ticks lie below 1."""
    ticks = ticks_of_p(right, start=0.8)
    assert not any(min(ticks[at : at + 10]) >= 1 for at in range(31)), "nothing jitters"
    (line,) = said(PAIRS, "augment_p", ticks)
    assert "probability of augmentation" in line


def test_p_that_leaves_its_limit_does_not_trip() -> None:
    """From 1 down again, as D is right about real pairs less often than the target asks for; or there for a while, again and again."""
    assert said(PAIRS, "augment_p", ticks_of_p(right=0.75, start=1.0)) == []
    assert said(PAIRS, "augment_p", [*[0.96] * 9, 0.94, *[1.0] * 9, 0.9] * 5) == []
    assert said(PAIRS, "augment_p", [0.94] * 50) == []


def test_an_untrained_network_may_be_anything() -> None:
    assert said(PAIRS, "diversity", [0.0, 0.9]) == []


def test_a_fixed_probability_of_augmentation_is_no_sign() -> None:
    ada, fixed = (dataclasses.replace(Run(), pairs=dataclasses.replace(Run().pairs, augment=augment)) for augment in ("ada", "fixed"))
    assert wires_of(ada, "pairs") == PAIRS and wires_of(ada, "video") == ()
    assert {wire.metric for wire in wires_of(fixed, "pairs")} == {"d_loss", "diversity"}


def test_settings_in_the_advice_exist() -> None:
    """Reference: the config."""
    for wire in PAIRS:
        for flag in [word.rstrip(",.)") for word in wire.words.replace("(", " ").split() if word.startswith("--")]:
            group, name = flag.removeprefix("--").split(".")
            assert hasattr(getattr(Run(), group), name.replace("-", "_")), flag
