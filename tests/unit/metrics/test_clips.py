"""Figures of clips that need no network, against their definitions and against known clips."""

import itertools

import numpy as np
import pytest

from mvgan.metrics.clips import ClipSums, compare


def sums_of(clips: np.ndarray) -> ClipSums:
    sums = ClipSums()
    for clip in clips:
        sums.add(clip)
    return sums


def test_clip_figures_against_brute_force() -> None:
    """Reference: the definitions, pair by pair, in float64."""
    clips = np.random.default_rng(0).integers(0, 256, (5, 7, 3, 4, 4), dtype=np.uint8)
    found = sums_of(clips).figures()
    x = clips / 127.5 - 1
    motion = np.mean([((clip[t + 1] - clip[t]) ** 2).mean() for clip in x for t in range(6)])
    within = np.mean([((clip[:3].mean(0) - clip[3:].mean(0)) ** 2).mean() for clip in x])
    between = np.mean([((a.mean(0) - b.mean(0)) ** 2).mean() for a, b in itertools.combinations(x, 2)])
    np.testing.assert_allclose([found.motion, found.within, found.between], [motion, within, between], rtol=1e-12)
    assert found.videos == 5
    assert found.content_share == pytest.approx(within / between)


def test_parts_merge_to_the_whole() -> None:
    """Reference: all clips in one; whatever the parts and the form in which they travel."""
    clips = np.random.default_rng(1).integers(0, 256, (9, 5, 3, 4, 4), dtype=np.uint8)
    whole, merged = sums_of(clips).figures(), ClipSums()
    for part in (clips[:1], clips[1:6], clips[6:]):
        merged.merge(ClipSums(dict(sums_of(part).arrays)))
    found = merged.figures()
    for name in ("motion", "within", "between"):
        assert getattr(found, name) == pytest.approx(getattr(whole, name), rel=1e-12)


def test_clips_of_one_video_are_not_different_videos() -> None:
    """Reference: one clip of each video, whatever else is added for motion."""
    clips = np.random.default_rng(3).integers(0, 256, (6, 5, 3, 4, 4), dtype=np.uint8)
    sums = ClipSums()
    for number, clip in enumerate(clips):
        sums.add(clip, new_video=number % 2 == 0)
    found, firsts = sums.figures(), sums_of(clips[::2]).figures()
    assert found.videos == 3 and found.between == pytest.approx(firsts.between)
    assert found.motion == pytest.approx(sums_of(clips).figures().motion) and len(sums.arrays["motion"]) == 6


def moving(steps: list[int], rng: np.random.Generator) -> np.ndarray:
    """A clip for each step: noise that moves by `step` pixels a frame."""
    images = rng.integers(0, 256, (len(steps), 3, 8, 8), dtype=np.uint8)
    return np.stack([np.stack([np.roll(image, step * t, -1) for t in range(4)]) for image, step in zip(images, steps, strict=True)])


def test_the_comparison_says_what_differs() -> None:
    """Frozen videos have no motion, one video over and over no diversity; half too still and half too lively is seen in the
    distribution where the mean hides it.
    """
    rng = np.random.default_rng(2)
    real = moving([1] * 8, rng)
    same = compare(sums_of(real), sums_of(real))
    assert same["motion_ratio"] == same["diversity_ratio"] == 1 and same["motion_distance"] == 0
    assert same["drift_share"] == same["real_drift_share"] == pytest.approx(sums_of(real).figures().content_share)
    frozen = np.repeat(real[:, :1], 4, axis=1)
    still = compare(sums_of(frozen), sums_of(real))
    assert still["motion_ratio"] == 0 and still["motion_distance"] == pytest.approx(1) and still["drift_share"] == 0
    one = compare(sums_of(np.stack([real[0]] * 8)), sums_of(real))
    assert one["diversity_ratio"] == pytest.approx(0, abs=1e-9)
    mixed = np.concatenate([frozen[:4], real[4:]])
    halved = compare(sums_of(mixed), sums_of(real))
    assert halved["motion_distance"] == pytest.approx(1 - halved["motion_ratio"], abs=0.05) and 0.4 < halved["motion_ratio"] < 0.6
    # Twice as lively and frozen, half of each: the same mean, far apart video by video.
    quiet, loud = np.full((4, 4, 3, 8, 8), 100, np.uint8), np.full((4, 4, 3, 8, 8), 100, np.uint8)
    level = np.full((8, 4, 3, 8, 8), 100, np.uint8)
    loud[:, 1::2], level[:, 1::2] = 100 + 28, 100 + 20
    spread = compare(sums_of(np.concatenate([quiet, loud])), sums_of(level))
    assert spread["motion_ratio"] == pytest.approx(28**2 / 2 / 20**2) and spread["motion_distance"] > 0.9
    assert spread["diversity_ratio"] is None, "clips of one grey all through have nothing between them"


def test_one_video_has_nothing_between() -> None:
    sums = ClipSums()
    sums.add(np.zeros((4, 3, 2, 2), np.uint8))
    assert sums.figures().content_share == np.inf
    with pytest.raises(ValueError, match="2 frames or more"):
        sums.add(np.zeros((1, 3, 2, 2), np.uint8))
