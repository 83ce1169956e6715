"""Windows against brute-force enumeration of all pairs and clips, and against brute-force decoding."""

import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from mvgan.config import InputError, Pairs, Run, Video
from mvgan.data.windows import Item, Windows, clip_windows, decode_window, pair_windows, systematic


LENGTHS = (11, 3, 17, 2, 24, 9, 14)
PIECE = 8
PAIRS = ((0, 2), (0, 3))
CLIP = (tuple(range(0, 12, 3)),)


class FakeShards:
    """Random videos in memory, with the interface of a shard set; counts how often each piece is decoded."""

    def __init__(self, lengths: tuple[int, ...] = LENGTHS, frames_per_piece: int = PIECE) -> None:
        rng = np.random.default_rng(0)
        self.frames_per_piece = frames_per_piece
        self.lengths = np.array(lengths, dtype=np.int64)
        self.videos = [rng.integers(0, 256, (length, 3, 4, 4), dtype=np.uint8) for length in lengths]
        self.decoded: Counter[tuple[int, int]] = Counter()

    def frames(self, video: int, piece: int, places: Sequence[int]) -> np.ndarray:
        assert list(places) == sorted(set(places))
        self.decoded[video, piece] += 1
        return self.videos[video][piece * self.frames_per_piece : (piece + 1) * self.frames_per_piece][list(places)]


def make(options: tuple[tuple[int, ...], ...] = PAIRS, lengths: tuple[int, ...] = LENGTHS, **changes: Any) -> Windows:
    settings = {
        "reverse": True, "mirror": False, "balance": "frames", "pieces_per_window": 3, "items_per_piece": 2, "seed": 0, "purpose": "test",
    }  # fmt: skip
    return Windows(lengths, PIECE, options, **{**settings, **changes})


def enumerate_items(options: tuple[tuple[int, ...], ...], reverse: bool, mirror: bool, balance: str) -> dict[Item, Fraction]:
    """Every item with its stated probability, by plain loops over all videos, options, starts, orders and mirrorings."""
    by_video: dict[int, list[tuple[int, ...]]] = {}
    for video, length in enumerate(LENGTHS):
        for option in options:
            for start in range(length):
                frames = tuple(start + offset for offset in option)
                if all(frame < length for frame in frames):
                    by_video.setdefault(video, []).append(frames)
    total = sum(len(cells) for cells in by_video.values())
    found: dict[Item, Fraction] = {}
    for video, cells in by_video.items():
        for frames in cells:
            p = Fraction(1, total) if balance == "frames" else Fraction(1, len(by_video) * len(cells))
            for ordered in (frames, frames[::-1]) if reverse else (frames,):
                for mirrored in (False, True) if mirror else (False,):
                    found[Item(video, ordered, mirrored)] = p / (1 + reverse) / (1 + mirror)
    return found


@pytest.mark.parametrize("balance", ["frames", "videos"])
@pytest.mark.parametrize(
    ("options", "reverse", "mirror", "pieces", "per_piece"),
    [(PAIRS, True, False, 3, 2), (PAIRS[:1], True, True, 2, 4), (CLIP, False, True, 3, 1), (PAIRS, True, False, 9, 30)],
)
def test_frequencies_equal_enumeration(
    options: tuple[tuple[int, ...], ...], reverse: bool, mirror: bool, pieces: int, per_piece: int, balance: str
) -> None:
    settings: dict[str, Any] = {
        "reverse": reverse,
        "mirror": mirror,
        "balance": balance,
        "pieces_per_window": pieces,
        "items_per_piece": per_piece,
    }
    windows = make(options, **settings)
    expected = enumerate_items(options, reverse, mirror, balance)
    numbers = {item: i for i, item in enumerate(expected)}
    count = 1500
    seen = np.zeros((count, len(expected)))
    for index in range(count):
        for item in windows[index]:  # KeyError for a pair or clip that the enumeration does not know
            seen[index, numbers[item]] += 1
    mean = windows.items_per_window * np.array([float(p) for p in expected.values()])
    # A window may hold an item several times, so the error is taken from the data; the floor is Poisson's.
    error = np.maximum(seen.std(0), np.sqrt(mean)) / np.sqrt(count)
    assert np.abs((seen.mean(0) - mean) / error).max() < 6
    assert any(len({frame // PIECE for frame in item.frames}) > 1 for item in expected)  # across the borders of pieces


def test_systematic_points_meet_every_place_exactly_equally_often() -> None:
    rng = np.random.default_rng(1)
    for count in (1, 2, 3, 7, 16):
        weights = rng.integers(1, 9, 6)
        met: Counter[tuple[int, int]] = Counter()
        for first in range(weights.sum()):
            slots, places = systematic(weights, first, count)
            met.update(zip(slots.tolist(), places.tolist(), strict=True))
            share = weights * count <= weights.sum()
            assert all(not share[slot] or number == 1 for slot, number in Counter(slots.tolist()).items())
        assert met == {(slot, place): count for slot, weight in enumerate(weights) for place in range(weight)}


@pytest.mark.parametrize("balance", ["frames", "videos"])
def test_all_cells_of_a_piece_come_once_before_any_comes_again(balance: str) -> None:
    # With more items than cells in any piece (2 intervals x 8 frames), a piece's counts differ by one at most.
    windows = make(reverse=False, pieces_per_window=1, items_per_piece=40, balance=balance)
    expected = enumerate_items(PAIRS, False, False, balance)
    for index in range(60):
        counts = Counter(windows[index])
        video, piece = next(iter(counts)).video, next(iter(counts)).frames[0] // PIECE
        cells = [item for item in expected if item.video == video and item.frames[0] // PIECE == piece]
        assert set(counts) == set(cells)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_a_window_is_a_pure_function_of_seed_purpose_and_index() -> None:
    windows = make()
    forward = [windows[i] for i in range(20)]
    again, copy = make(), pickle.loads(pickle.dumps(windows))
    assert [again[i] for i in reversed(range(20))] == forward[::-1]
    assert [copy[i] for i in range(20)] == forward
    assert len(set(forward)) == 20
    for other in (make(seed=1), make(seed=-1), make(purpose="evaluate")):
        assert all(other[i] != forward[i] for i in range(20))


def test_a_window_is_the_same_on_every_machine() -> None:
    # Written down once: a change of this value changes what resumed runs see.
    assert make(mirror=True)[5][:2] == (Item(video=6, frames=(10, 7), mirror=True), Item(video=4, frames=(18, 20), mirror=False))


def test_videos_in_a_window_differ() -> None:
    for balance in ("frames", "videos"):
        windows = make(lengths=(20, 25, 30, 22, 28, 21), pieces_per_window=4, items_per_piece=3, balance=balance)
        for index in range(200):
            assert sorted(Counter(item.video for item in windows[index]).values()) == [3, 3, 3, 3]


def test_items_of_a_piece_are_spread_over_the_window() -> None:
    windows = make(lengths=(20,) * 6, pieces_per_window=4, items_per_piece=4)
    groups = [len({item.video for item in windows[i][:4]}) for i in range(200)]
    # Four of sixteen items in random order come from 4 * (1 - C(12, 4) / C(16, 4)) = 2.91 pieces on average.
    assert abs(np.mean(groups) - 4 * (1 - 495 / 1820)) < 6 * np.std(groups) / np.sqrt(200)


@pytest.mark.parametrize("options", [PAIRS, CLIP])
def test_decoded_window_equals_brute_force_decoding(options: tuple[tuple[int, ...], ...]) -> None:
    shards = FakeShards()
    windows = make(options, mirror=True, items_per_piece=5)
    for index in range(20):
        shards.decoded.clear()
        items = windows[index]
        frames = decode_window(shards, items)
        assert frames.dtype == np.uint8
        assert max(shards.decoded.values()) == 1
        for item, got in zip(items, frames, strict=True):
            want = np.stack([shards.videos[item.video][frame] for frame in item.frames])
            np.testing.assert_array_equal(got, np.flip(want, -1) if item.mirror else want)


def test_windows_of_a_run() -> None:
    run = Run(interval=(2, 4), stride=3, seed=7, pairs=Pairs(mirror=True), video=Video(num_frames=4))
    shards = FakeShards()
    pairs, clips = pair_windows(shards, run), clip_windows(shards, run)
    assert (pairs.items_per_window, clips.items_per_window) == (64, 8)
    intervals = Counter(item.frames[1] - item.frames[0] for i in range(20) for item in pairs[i])
    assert set(intervals) == {-4, -2, 2, 4}
    drawn = [item for i in range(20) for item in clips[i]]
    assert all(np.diff(item.frames).tolist() == [3, 3, 3] for item in drawn)
    assert {item.mirror for item in drawn} == {True, False}
    assert {item.video for item in drawn} == {v for v, length in enumerate(LENGTHS) if length > 9}  # too short ones are left out
    assert pair_windows(shards, run, "evaluate")[0] != pairs[0]
    assert not any(item.mirror for item in pair_windows(shards, replace(run, pairs=Pairs()))[0])


def test_too_short_videos_are_the_users_mistake() -> None:
    with pytest.raises(InputError, match="31 frames are needed and the longest video has 24"):
        pair_windows(FakeShards(), Run(interval=(2, 30)))
    with pytest.raises(InputError, match="46 frames are needed"):
        clip_windows(FakeShards(), Run(stride=3))
    with pytest.raises(ValueError, match="start at 0"):
        make()[-1]
