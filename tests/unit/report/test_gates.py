"""The gates, at and beside their bounds (the numbers of the project's definition of done) and against brute force."""

from typing import Any

import numpy as np
import pytest

from mvgan.data.synthetic import factors, render_clip
from mvgan.metrics.clips import ClipFigures, ClipSums
from mvgan.motion.evaluate import EDIT_LATENTS
from mvgan.presets import demo
from mvgan.report.gates import (
    MIN_CODES,
    MIN_GRAMS,
    MIN_LATENTS,
    MIN_PAIRS,
    Measure,
    content_gate,
    edit_gates,
    frechet_gate,
    halfway,
    measures,
    motion_gate,
)


def history(*values: tuple[int, float, float]) -> list[dict[str, float]]:
    return [{"images": images, "frechet": frechet, "frechet_error": error} for images, frechet, error in values]


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        ((2.0, 0.1), "pass"),  # a tenth exactly, 1 below half-way
        ((2.01, 0.1), "fail"),  # more than a tenth is left
        ((1.95, 1.1), "fail"),  # fell by less than its error
    ],
)
def test_frechet(end: tuple[float, float], outcome: str) -> None:
    records = [{"images": 500, "d_loss": 1.0}, *history((0, 20.0, 0.5), (500, 3.0, 0.2), (1000, *end))]
    gate = frechet_gate(measures(records), 1000, 1024, Measure(640, 0.4, 0.01))
    assert gate.outcome == outcome
    assert "of 1,024 pairs each" in gate.value and "real against real 0.4 ± 0.01, of 640" in gate.value


def test_frechet_of_too_few_pairs_is_open() -> None:
    """Whatever the figures say: the distance of small draws is biased."""
    found = measures(history((0, 20.0, 0.5), (500, 3.0, 0.2), (1000, 1.0, 0.1)))
    assert frechet_gate(found, 1000, 1024, None).outcome == "pass"
    gate = frechet_gate(found, 1000, 1023, None)
    assert gate.outcome == "open" and "1,023 pairs; 1,024 are asked for" in gate.words and "of 1,023 pairs" in gate.value


def test_frechet_of_an_unfinished_run_is_open() -> None:
    found = measures(history((0, 20.0, 0.5), (500, 3.0, 0.2)))
    gate = frechet_gate(found, 1000, 1024, None)
    assert gate.outcome == "open" and "end" in gate.words
    assert frechet_gate(measures(history((0, 20.0, 0.5), (1000, 1.0, 0.2))), 1000, 1024, None).outcome == "open"


def test_halfway_is_the_measure_nearest_to_the_middle() -> None:
    found = measures(history((0, 9, 0), (200, 8, 0), (460, 7, 0), (900, 6, 0), (1000, 5, 0)))
    middle = halfway(found, 1000)
    assert middle is not None and middle.images == 460


def direction(median: float, worst: float, codes: int = 10, latents: int = 32) -> dict[str, Any]:
    return {"ratios": [median] * (codes - 1) + [worst], "median": median, "worst": worst, "latents": latents}


def found_codes(edits: dict[str, Any], grams: int = 8, source: str = "mean") -> dict[str, Any]:
    """What gate (b) reads of codes.json."""
    return {"method": "generalized", "source": source, "samples": [{}] * grams, "edits": edits}


@pytest.mark.parametrize(("median", "worst", "outcome"), [(4.0, 2.5, "pass"), (3.99, 3.0, "fail"), (9.0, 2.49, "fail")])
def test_edits(median: float, worst: float, outcome: str) -> None:
    good, random = direction(8.0, 5.0), direction(1.0, 0.9)
    edits = {
        "generalized": {"backward": direction(median, worst), "forward": good},
        "nullspace": {"backward": direction(3.21, 2.0)},
        "random": {"backward": random, "forward": random},
    }
    backward, forward = edit_gates(found_codes(edits))
    assert (backward.outcome, forward.outcome) == (outcome, "pass")
    assert "3.21" in backward.value and "random directions 1.00" in backward.value
    assert "10 codes, 8 Grams, 32 fresh latents" in backward.value
    assert "eq. 8" not in forward.value  # that method gave none


@pytest.mark.parametrize(
    ("codes", "latents", "grams", "source", "said"),
    [
        (9, 32, 8, "mean", "9 codes where 10 are asked for"),
        (10, 31, 8, "mean", "31 fresh latents where 32 are asked for"),
        (10, 32, 7, "mean", "7 Grams where 8 are asked for"),
        (10, 32, 8, "sample", "1 Grams where 8 are asked for"),
    ],
)
def test_edits_below_the_protocol_are_open(codes: int, latents: int, grams: int, source: str, said: str) -> None:
    """One direction is below it in codes and latents, both are in Grams."""
    edits = {"generalized": {"backward": direction(8.0, 5.0, codes, latents), "forward": direction(8.0, 5.0)}}
    backward, forward = edit_gates(found_codes(edits, grams, source))
    assert backward.outcome == "open" and said in backward.words
    assert forward.outcome == ("open" if "Grams" in said else "pass")


def test_the_demo_is_measured_by_the_protocol() -> None:
    run = demo()
    assert run.pairs.eval_pairs >= MIN_PAIRS and run.num_codes >= MIN_CODES
    assert run.latents >= MIN_GRAMS and run.codes.source == "mean" and EDIT_LATENTS >= MIN_LATENTS


def test_real_clips_keep_their_content() -> None:
    """Reference: clips drawn with one content each hold the bound that generated ones must hold; shuffled frames do not."""
    clips = [render_clip(content, motion, 16) for content, motion in factors(12, 32, seed=3)]
    kept, lost = ClipSums(), ClipSums()
    for number, clip in enumerate(clips):
        kept.add(clip[::4])
        lost.add(np.concatenate([clip[:16:4], clips[(number + 1) % 12][:16:4]]))
    assert content_gate(padded(kept.figures()), kept.figures()).outcome == "pass"
    assert content_gate(padded(lost.figures()), kept.figures()).outcome == "fail"


def padded(figures: ClipFigures) -> ClipFigures:
    """The same figures as of enough videos."""
    return ClipFigures(32, figures.motion, figures.within, figures.between)


def figures(motion: float, within: float = 0.1, between: float = 1.0, videos: int = 32) -> ClipFigures:
    return ClipFigures(videos, motion, within, between)


@pytest.mark.parametrize(
    ("motion", "videos", "outcome"), [(3.0, 32, "pass"), (3.01, 32, "fail"), (1 / 3, 32, "pass"), (0.33, 32, "fail"), (1.0, 31, "fail")]
)
def test_motion(motion: float, videos: int, outcome: str) -> None:
    assert motion_gate(figures(motion, videos=videos), figures(1.0)).outcome == outcome


def test_content() -> None:
    assert content_gate(figures(1, 0.25), figures(1, 0.05)).outcome == "pass"
    assert content_gate(figures(1, 0.26), figures(1, 0.05)).outcome == "fail"
    # One person in all videos: real clips do not hold the bound, so it says nothing of the generated ones.
    assert content_gate(figures(1, 0.26), figures(1, 0.3)).outcome == "open"
