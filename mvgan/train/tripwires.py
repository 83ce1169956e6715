"""Signs in the metrics of stage 1 that a training goes wrong, each with what to change."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mvgan.config import ANOTHER_NAME, Run


NEAR_LIMIT = 0.95
"""Mean over a tick from which the probability of augmentation counts as at its limit, where single moves still go down."""


@dataclass(frozen=True)
class Tripwire:
    """Trips when `wrong` holds of the metric in `times` records of it in a row."""

    metric: str
    wrong: Callable[[float], bool]
    times: int
    words: str
    """What it means and what to change; {value} is the newest one."""


PAIRS = (
    Tripwire(
        "d_loss", lambda value: value < 0.05, 10,
        "the discriminator is nearly always right (d_loss {value:.3g}), so the generator learns little: raise --pairs.r1-gamma, take "
        "--pairs.augment ada if it is off, or give more videos",
    ),
    Tripwire(
        "augment_p", lambda value: value >= NEAR_LIMIT, 10,
        "the probability of augmentation stays near its limit of 1 ({value:.3g}): the data are too few for this length; give more videos, "
        "take --pairs.mirror, or stop at the best commit (--codes.select best)",
    ),
    Tripwire(
        "diversity", lambda value: value < 0.25, 1,
        "generated pairs differ among each other only {value:.3g} times as much as real ones: the generator has collapsed to a part of the "
        "data; begin anew with a lower --pairs.lr or a higher --pairs.r1-gamma",
    ),
)  # fmt: skip


def wires_of(run: Run, stage: str) -> tuple[Tripwire, ...]:
    """Those of a stage: a fixed probability of augmentation may be what it likes."""
    if stage != "pairs":
        return ()
    return tuple(wire for wire in PAIRS if wire.metric != "augment_p" or run.pairs.augment == "ada")


def tripped(wires: tuple[Tripwire, ...], history: Sequence[Mapping[str, float]]) -> list[str]:
    """What holds at the newest records of a stage, a line each."""
    found = []
    for wire in wires:
        newest = [record[wire.metric] for record in history if record["images"] and wire.metric in record][-wire.times :]
        if len(newest) == wire.times and all(map(wire.wrong, newest)):
            found.append(wire.words.format(value=newest[-1]))
    return found


class Tripwires:
    """Says once for each time that a sign comes up; it comes up anew after it was gone."""

    def __init__(self, wires: tuple[Tripwire, ...], say: Callable[[str], None]) -> None:
        self.wires, self.say = wires, say
        self._in_a_row = {wire.metric: 0 for wire in wires}

    def look(self, images: int, record: Mapping[str, float]) -> None:
        """Look at a record of metrics after `images`; at the start a network may be anything."""
        for wire in self.wires:
            if images and wire.metric in record:
                value = record[wire.metric]
                count = self._in_a_row[wire.metric] = self._in_a_row[wire.metric] + 1 if wire.wrong(value) else 0
                if count == wire.times:
                    self.say(f"warning: at {images} {wire.words.format(value=value)}, {ANOTHER_NAME}")
