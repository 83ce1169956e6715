"""The clips of each protocol, by counting."""

from collections import Counter

import pytest

from mvgan.config import InputError
from mvgan.metrics.protocol import PROTOCOLS, Place, real_clips


def video_set(count: int) -> tuple[list[str], list[int]]:
    """Names whose order is not that of their numbers, and lengths of 10 to 40 frames."""
    return [f"v{(number * 7919) % 10007:05d}.mp4" for number in range(count)], [10 + number % 31 for number in range(count)]


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("count", [5, 3000])
def test_clips_lie_within_videos_and_follow_from_the_seed(name: str, count: int) -> None:
    if count == 5 and PROTOCOLS[name].least > 5:
        pytest.skip("five videos have too few clips for this protocol, which another test sees refused")
    names, lengths = video_set(count)
    found = real_clips(PROTOCOLS[name], names, lengths, 12, seed=3)
    assert all(0 <= clip.start <= lengths[clip.video] - 12 for clips in found for clip in clips)
    assert found == real_clips(PROTOCOLS[name], names, lengths, 12, seed=3)
    if name != "all-clips":
        assert found != real_clips(PROTOCOLS[name], names, lengths, 12, seed=4)
    assert all(repeat != found[0] for repeat in found[1:])


def test_styleganv_takes_the_first_in_sorted_order() -> None:
    """Reference: the names sorted by hand; a video that is too short is passed over."""
    names, lengths = video_set(3000)
    (found,) = real_clips(PROTOCOLS["styleganv"], names, lengths, 12)
    expected = [name for name in sorted(names) if lengths[names.index(name)] >= 12][:2048]
    assert [names[clip.video] for clip in found] == expected
    names, lengths = video_set(40)
    (few,) = real_clips(PROTOCOLS["styleganv"], names, lengths, 12)
    assert len(few) == sum(length >= 12 for length in lengths)


def test_random_clips_are_uniform_over_videos() -> None:
    """Each of 3,000 videos at most once; each of 100 videos 20 or 21 times, wherever it stands; starts over the whole video."""
    names, lengths = video_set(3000)
    (found,) = real_clips(PROTOCOLS["random-2048"], names, lengths, 10)
    assert len(found) == 2048 == len({clip.video for clip in found})
    long = [length + 50 for length in lengths[:100]]
    (few,) = real_clips(PROTOCOLS["random-2048"], names[:100], long, 10)
    assert len(few) == 2048 == len(set(few)) and set(Counter(clip.video for clip in few).values()) == {20, 21}
    starts = Counter(
        clip.start for seed in range(30) for clip in real_clips(PROTOCOLS["random-2048"], ["a"] * 600, [13] * 600, 10, seed)[0]
    )
    assert sorted(starts) == [0, 1, 2, 3] and max(starts.values()) < 1.1 * min(starts.values())


def test_a_video_without_clips_left_is_made_up_for_by_others() -> None:
    """One clip of each of ten short videos, all others of the long one; no clip twice."""
    (found,) = real_clips(PROTOCOLS["random-2048"], [str(i) for i in range(11)], [10] * 10 + [5000], 10)
    counts = Counter(clip.video for clip in found)
    assert len(set(found)) == 2048 and counts[10] == 2038 and all(counts[video] == 1 for video in range(10))


@pytest.mark.parametrize("name", ["random-2048", "digan"])
def test_too_few_different_clips_are_refused(name: str) -> None:
    assert len(real_clips(PROTOCOLS[name], ["a", "b"], [1033, 1033], 10)[0]) == 2048
    with pytest.raises(InputError, match=r"needs 2,048 different clips of 10 frames.* finds 2,047: ") as error:
        real_clips(PROTOCOLS[name], ["a", "b"], [1033, 1032], 10)
    assert "--protocol all-clips" in str(error.value) and "\n" not in str(error.value)


def test_digan_repeats() -> None:
    found = real_clips(PROTOCOLS["digan"], *video_set(2500), 10)
    assert len(found) == 10 and all(len(repeat) == 2048 for repeat in found)


def test_all_clips_by_hand() -> None:
    (found,) = real_clips(PROTOCOLS["all-clips"], ["b", "a", "c"], [16, 35, 15], 16)
    assert found == [Place(1, 0), Place(1, 16), Place(0, 0)]


@pytest.mark.parametrize("lengths", [[8, 9, 10], [8, 16, 9], []])
def test_too_few_clips_are_told_in_one_line(lengths: list[int]) -> None:
    with pytest.raises(InputError, match="needs 2 different clips of 16 frames") as error:
        real_clips(PROTOCOLS["styleganv"], [str(number) for number in range(len(lengths))], lengths, 16)
    assert "\n" not in str(error.value)
