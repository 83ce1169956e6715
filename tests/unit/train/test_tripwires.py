"""Signs that a training goes wrong: said when they come up, once, with what to change, and not before."""

import dataclasses

import pytest

from mvgan.config import Run
from mvgan.train.tripwires import PAIRS, Tripwire, Tripwires, wires_of


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
