"""The quality gates: numbers of a run that say whether each stage did its work, as pure functions.

Clips are uint8 `[n, t, 3, h, w]`; differences are mean squares on [-1, 1], as everywhere in mvgan.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mvgan.metrics.clips import ClipFigures


MAX_FRECHET_SHARE = 0.1
"""Gate (a): most that may be left of the initial Frechet distance."""

MIN_MEDIAN_RATIO, MIN_WORST_RATIO = 4.0, 2.5
"""Gate (b): least edit ratio of the median and of the worst code."""

MIN_PAIRS = 1024
"""Real, and generated, pairs of each measure that gate (a) rests on."""

MIN_CODES, MIN_GRAMS, MIN_LATENTS = 10, 8, 32
"""What gate (b) rests on: codes each way, Grams whose mean they are from, fresh latents at which they are measured."""

MIN_MOTION, MAX_MOTION = 1 / 3, 3.0
"""Gate (c): bounds on the motion of generated over that of real clips."""

MAX_CONTENT_SHARE = 0.25
"""Gate (c): most that the mean frame may move within a video, as a share of what lies between videos."""

MIN_VIDEOS = 32
"""Generated videos on which gate (c) rests."""

EDIT_NAMES = {"backward": "Backward codes edit the former frame", "forward": "Forward codes edit the latter frame"}
MOTION_NAME, CONTENT_NAME = "Videos move as much as real ones", "A video keeps its content"
EDIT_BOUND = f"median ≥ {MIN_MEDIAN_RATIO:g}, worst ≥ {MIN_WORST_RATIO:g}"
MOTION_BOUND, CONTENT_BOUND = f"{MIN_MOTION:.2f} to {MAX_MOTION:g}", f"≤ {MAX_CONTENT_SHARE:g}"

Outcome = Literal["pass", "fail", "open"]
"""`open`: not measured, or by too little, or the gate does not apply; the words say why."""


@dataclass(frozen=True)
class Gate:
    """One row of the verdict."""

    name: str
    outcome: Outcome
    value: str
    """The figures that were measured."""
    bound: str
    """What they must be."""
    words: str
    """What this says, for people."""


@dataclass(frozen=True)
class Measure:
    """A Frechet distance with its bootstrap error, after `images` pairs."""

    images: int
    frechet: float
    error: float

    def __str__(self) -> str:
        return f"{self.frechet:.4g} ± {self.error:.2g}"


def measures(history: Sequence[dict[str, Any]]) -> list[Measure]:
    """The Frechet distances in the records of pairs/metrics.jsonl, in their order."""
    return [Measure(record["images"], record["frechet"], record["frechet_error"]) for record in history if "frechet" in record]


def halfway(found: Sequence[Measure], end: int) -> Measure | None:
    """The measure nearest to half of `end` images, between a quarter and three quarters of them; None when there is none."""
    between = [measure for measure in found if end / 4 <= measure.images <= end * 3 / 4]
    return min(between, key=lambda measure: abs(measure.images - end / 2)) if between else None


def frechet_gate(found: Sequence[Measure], end: int, pairs: int, real: Measure | None) -> Gate:
    """Gate (a): the distance to real pairs has fallen to a tenth, and was still falling in the second half.

    `end` is the planned number of pairs, `pairs` how many real and how many generated ones each measure took, `real` the
    distance between two disjoint draws of real pairs.
    """
    name = "Pairs look like real pairs"
    bound = f"end ≤ {MAX_FRECHET_SHARE:g} × start, and below half-way by more than the bootstrap error"
    at = {measure.images: measure for measure in found}
    first, middle, last = at.get(0), halfway(found, end), at.get(end)
    if first is None or middle is None or last is None:
        parts = {"start": first, "half-way point": middle, "end": last}
        value = ", ".join(f"{word} {measure}" for word, measure in parts.items() if measure is not None)
        missing = " nor at the ".join(word for word, measure in parts.items() if measure is None)
        return Gate(name, "open", value or "not measured", bound, f"No measure at the {missing} of stage 1.")
    share, fall = last.frechet / first.frechet, middle.frechet - last.frechet
    error = max(last.error, middle.error)
    value = f"start {first}, half-way {middle}, end {last}, of {pairs:,} pairs each: {share:.3f} of the start, {fall:.3g} below half-way"
    if real is not None:
        value += f"; real against real {real}, of {real.images:,}"
    if pairs < MIN_PAIRS:
        return Gate(name, "open", value, bound, f"Measured on {pairs:,} pairs; {MIN_PAIRS:,} are asked for (pairs.eval_pairs).")
    passed = share <= MAX_FRECHET_SHARE and fall > error
    words = "Fréchet distance between real and generated pairs in seeded features (not FID); lower is nearer."
    if share > MAX_FRECHET_SHARE:
        words += " More than a tenth of the initial distance is left."
    if fall <= error:
        words += " The second half of the training brought nothing beyond the error of the measure."
    return Gate(name, "pass" if passed else "fail", value, bound, words)


def edit_gates(codes: dict[str, Any]) -> list[Gate]:
    """Gate (b) for backward and for forward codes, by the method of the run. codes: the content of codes.json."""
    method, edits = codes["method"], codes["edits"]
    grams = len(codes["samples"]) if codes["source"] == "mean" else 1
    gates = []
    for direction, edited, kept in (("backward", "former", "latter"), ("forward", "latter", "former")):
        own = edits[method][direction]
        counts = {"codes": (len(own["ratios"]), MIN_CODES), "Grams": (grams, MIN_GRAMS), "fresh latents": (own["latents"], MIN_LATENTS)}
        short = ", ".join(f"{count} {what} where {least} are asked for" for what, (count, least) in counts.items() if count < least)
        beside = [
            f"{_method_name(other)} {figures[direction]['median']:.2f} and {figures[direction]['worst']:.2f}"
            for other, figures in edits.items()
            if other != method and direction in figures
        ]
        value = f"median {own['median']:.2f}, worst {own['worst']:.2f} ({_method_name(method)}; {_counted(counts)})"
        value += f"; beside it {', '.join(beside)}" if beside else ""
        words = f"How many times more a code changes the {edited} frame than the {kept} one, at equal strength over fresh latents."
        passed = own["median"] >= MIN_MEDIAN_RATIO and own["worst"] >= MIN_WORST_RATIO
        outcome: Outcome = "open" if short else "pass" if passed else "fail"
        gates.append(
            Gate(EDIT_NAMES[direction], outcome, value, EDIT_BOUND, words + (f" Too little to judge by: {short}." if short else ""))
        )
    return gates


def _counted(counts: dict[str, tuple[int, int]]) -> str:
    return ", ".join(f"{count} {what}" for what, (count, _) in counts.items())


def _method_name(method: str) -> str:
    names = {
        "generalized": "generalised eigenproblem",
        "nullspace": "null space (eq. 8)",
        "official": "released code",
        "random": "random directions",
    }
    return names[method]


def motion_gate(generated: ClipFigures, real: ClipFigures) -> Gate:
    """Gate (c), first half: generated videos move about as much from frame to frame as real clips at the same stride."""
    ratio = generated.motion / real.motion if real.motion else float("inf")
    passed = MIN_MOTION <= ratio <= MAX_MOTION and generated.videos >= MIN_VIDEOS
    words = f"Mean squared difference of consecutive frames in {generated.videos} generated videos, over that of {real.videos} real clips."
    words += (
        ""
        if passed
        else " They move too little."
        if ratio < MIN_MOTION
        else " They move too much."
        if ratio > MAX_MOTION
        else " Too few videos."
    )
    value = f"{ratio:.2f} (generated {generated.motion:.3g}, real {real.motion:.3g})"
    return Gate(MOTION_NAME, "pass" if passed else "fail", value, MOTION_BOUND, words)


def content_gate(generated: ClipFigures, real: ClipFigures) -> Gate:
    """Gate (c), second half: a video keeps its content.

    It is asked only of data whose own clips would pass: where all videos show one person, little lies between them.
    """
    share = generated.content_share
    passed = share <= MAX_CONTENT_SHARE and generated.videos >= MIN_VIDEOS
    words = "How far the mean frame moves between the halves of one video, over how far it moves between videos."
    applies = real.content_share <= MAX_CONTENT_SHARE
    if not applies:
        words += " Not asked here: the real clips themselves are above the bound, so the videos differ too little among each other."
    outcome: Outcome = ("pass" if passed else "fail") if applies else "open"
    value = f"{share:.3f} over {generated.videos} videos (real clips {real.content_share:.3f})"
    return Gate(CONTENT_NAME, outcome, value, CONTENT_BOUND, words)


def missing_gates(stage: str) -> list[Gate]:
    """The rows of gates (b), of stage codes, or (c), of stage video, where that stage has not ended."""
    rows = (
        [(name, EDIT_BOUND) for name in EDIT_NAMES.values()]
        if stage == "codes"
        else [(MOTION_NAME, MOTION_BOUND), (CONTENT_NAME, CONTENT_BOUND)]
    )
    return [Gate(name, "open", "not measured", bound, f"Stage {stage} has not finished.") for name, bound in rows]
