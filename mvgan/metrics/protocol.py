"""Which clips of a data set a score is taken over: the choices that make published figures differ.

MoCoGAN-HD has an FVD of 1729.6 on UCF101 in StyleGAN-V's table and of 625.87 by a user of its code (its issue 7). Resolution and training
differ there too, but so do the real clips: the first 2,048 videos in sorted order are of some 16 of the 101 classes. So a
figure is worth as much as the name of its protocol.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mvgan.config import InputError


COUNT = 2048
"""Most clips of a set in all protocols but `all-clips`."""


@dataclass(frozen=True)
class Place:
    """A clip: `video` by its number in the data set, from frame `start` on."""

    video: int
    start: int


@dataclass(frozen=True)
class Protocol:
    """How real clips are chosen, and how often all is done anew."""

    name: str
    what: str
    """For people, in one line."""
    choose: Callable[[Sequence[int], Sequence[int], int, np.random.Generator], list[Place]]
    """(videos in sorted order of their names, their lengths, frames of a video that a clip takes, randomness) -> clips."""
    repeats: int = 1
    least: int = 2
    """Clips without which it is not this protocol."""


def real_clips(
    protocol: Protocol, names: Sequence[str], lengths: Sequence[int], num_frames: int, seed: int = 0, stride: int = 1
) -> list[list[Place]]:
    """The real clips of each repeat, of the videos with `names` and `lengths` in frames; the same for the same seed.

    A clip has `num_frames` frames, `stride` frames of its video apart.

    Videos shorter than a clip are left out. Raises InputError when fewer clips are left than the protocol is of.
    """
    if num_frames < 1 or stride < 1:
        raise ValueError(f"a clip has at least 1 frame and a stride of 1, not {num_frames} and {stride}")
    span = (num_frames - 1) * stride + 1
    if len(names) != len(lengths):
        raise ValueError(f"{len(names)} names for {len(lengths)} lengths")
    long_enough = [video for video in sorted(range(len(names)), key=names.__getitem__) if lengths[video] >= span]
    rng = np.random.Generator(np.random.Philox(seed))
    found = [protocol.choose(long_enough, lengths, span, rng) for _ in range(protocol.repeats)] if long_enough else [[]]
    if len(found[0]) < protocol.least:
        longest = max(lengths, default=0)
        raise InputError(
            f"protocol {protocol.name} needs {protocol.least:,} different clips of {num_frames} frames at stride {stride}, so {span} "
            f"frames of a video, and finds {len(found[0]):,}: of {len(names)} videos {len(long_enough)} are long enough (the longest: "
            f"{longest} frames); give fewer --frames, other data, or --protocol all-clips"
        )
    return found


def _first_videos(videos: Sequence[int], lengths: Sequence[int], num_frames: int, rng: np.random.Generator) -> list[Place]:
    return [_random_clip(video, lengths, num_frames, rng) for video in videos[:COUNT]]


def _random_videos(videos: Sequence[int], lengths: Sequence[int], num_frames: int, rng: np.random.Generator) -> list[Place]:
    """No clip twice, each video as often as another, but for one, while it has clips left. Fewer than COUNT where there are no more."""
    left = {video: rng.permutation(lengths[video] - num_frames + 1).tolist() for video in videos}
    found: list[Place] = []
    while left and len(found) < COUNT:
        for video in rng.permutation(list(left)).tolist()[: COUNT - len(found)]:
            found.append(Place(video, left[video].pop()))
            if not left[video]:
                del left[video]
    return found


def _all_clips(videos: Sequence[int], lengths: Sequence[int], num_frames: int, rng: np.random.Generator) -> list[Place]:
    return [Place(video, start) for video in videos for start in range(0, lengths[video] - num_frames + 1, num_frames)]


def _random_clip(video: int, lengths: Sequence[int], num_frames: int, rng: np.random.Generator) -> Place:
    return Place(video, int(rng.integers(lengths[video] - num_frames + 1)))


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "styleganv",
            "a random clip of each of the first 2,048 videos in sorted order of their names (StyleGAN-V), of all where there are fewer",
            _first_videos,
        ),
        Protocol(
            "random-2048",
            "2,048 different random clips, of each video as many as of another while it has them",
            _random_videos,
            least=COUNT,
        ),
        Protocol("all-clips", "all clips of all videos that do not overlap, from the first frame on", _all_clips),
        Protocol("digan", "the mean of 10 repeats of random-2048 (DIGAN)", _random_videos, repeats=10, least=COUNT),
    )
}
