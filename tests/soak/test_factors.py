"""Content stays and motion moves within a generated video: known factors of the synthetic set, read back from frames by a regression."""

import functools
import os

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mvgan.data.synthetic import Content, Motion, draw_content, draw_motion, render_clip
from mvgan.sample import Generator


COLOURS = ("skin", "hair", "shirt", "background")
SHAPE = ("face_width", "face_height", "eye_distance")
CONTENT = (*SHAPE, *(f"{name} {channel}" for name in COLOURS for channel in ("red", "green", "blue")))
MOTION = ("mouth", "eyes", "gaze", "head_x", "head_y", "tilt")

LEARNT, HELD_OUT, STEPS, BATCH = 12_000, 1000, 3000, 64
VIDEOS, FRAMES = 64, 16
READABLE = 0.8
"""Least share of a factor's variance that the regression explains on frames it has not seen; other factors are left out."""


def factors(content: Content, motion: Motion) -> np.ndarray:
    """The factors of each frame: [t, factors]."""
    fixed = [*(getattr(content, name) for name in SHAPE), *(channel for name in COLOURS for channel in getattr(content, name))]
    moving = np.stack([getattr(motion, name) for name in MOTION], 1)
    return np.concatenate([np.tile(fixed, (len(moving), 1)), moving], 1)


def clip(seed: int, num_frames: int, stride: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a synthetic clip and their factors."""
    rng = np.random.default_rng(seed)
    content, motion = draw_content(rng), draw_motion(rng, num_frames * stride)
    motion = Motion(**{name: values[::stride] for name, values in vars(motion).items()})
    return render_clip(content, motion, size), factors(content, motion)


def scaled(frames: np.ndarray | Tensor) -> Tensor:
    return torch.as_tensor(frames).float() / 127.5 - 1


class Reader:
    """Reads factors from frames: a small convolutional network, and what it explains of each on clips that it has not seen."""

    def __init__(self, size: int) -> None:
        made = [clip(10_000 + i, 1, 1, size) for i in range(LEARNT + HELD_OUT)]
        frames, known = scaled(np.concatenate([m[0] for m in made])), torch.as_tensor(np.concatenate([m[1] for m in made])).float()
        self._mean, self._std = known.mean(0), known.std(0)
        known = (known - self._mean) / self._std
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 32), (32, 64), (64, 96), (96, 128)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=1 if inputs == 3 else 2, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()]
        self._net = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(256), nn.ReLU(), nn.Linear(256, len(CONTENT) + len(MOTION)))
        self._net(frames[:2])
        opt = torch.optim.Adam(self._net.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, STEPS)
        for step in range(STEPS):
            chosen = torch.from_numpy(np.random.default_rng(step).choice(LEARNT, BATCH, replace=False))
            opt.zero_grad()
            (self._net(frames[chosen]) - known[chosen]).square().mean().backward()
            opt.step()
            schedule.step()
        left = (self(frames[LEARNT:]) - known[LEARNT:]).square().mean(0) / known[LEARNT:].var(0)
        self.explained = 1 - left

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        """Factors of frames [n, 3, h, w] in units of their spread over the set: [n, factors]."""
        return torch.cat([self._net(part) for part in frames.split(256)])


def spread(read: Tensor) -> Tensor:
    """Of factors [videos, frames, factors]: their spread within a video over that of the videos' means."""
    within = read.var(1).mean(0)
    return (within / read.mean(1).var(0)).sqrt()


@functools.cache
def reader(size: int) -> Reader:
    return Reader(size)


@pytest.mark.skipif("MVGAN_SYNTHETIC_RUN" not in os.environ, reason="MVGAN_SYNTHETIC_RUN names no finished run: its videos were not read")
def test_content_stays_and_motion_moves() -> None:
    """Content factors spread within a video at most a quarter as much as between videos, and motion factors more."""
    torch.set_num_threads(1)
    generator = Generator.load(os.environ["MVGAN_SYNTHETIC_RUN"])
    run = generator.run
    read = reader(run.resolution)
    real = np.concatenate([clip(i, FRAMES, run.stride, run.resolution)[0] for i in range(VIDEOS)])
    made = generator.sample(range(VIDEOS), FRAMES).reshape(-1, *real.shape[1:])
    held = [spread(read(scaled(frames)).unflatten(0, (VIDEOS, FRAMES))) for frames in (real, made)]
    print(f"\nwithin over between, {VIDEOS} videos of {FRAMES} frames\n| factor | explained | real | generated |\n|---|---|---|---|")
    names, kept = (*CONTENT, *MOTION), read.explained >= READABLE
    for i, name in enumerate(names):
        print(f"| {name} | {float(read.explained[i]):.3f} | {float(held[0][i]):.3f} | {float(held[1][i]):.3f} |")
    content, motion = held[1][: len(CONTENT)][kept[: len(CONTENT)]], held[1][len(CONTENT) :][kept[len(CONTENT) :]]
    print(f"content: median {float(content.median()):.3f}, most {float(content.max()):.3f}; motion: median {float(motion.median()):.3f}")
    assert len(content) >= 10 and len(motion) >= 4, "the regression reads too few factors to judge by"
    assert float(content.median()) <= 0.25 and float(motion.median()) > 0.25


def test_the_reading_tells_videos_that_move_from_such_that_change() -> None:
    """On real clips content hardly moves and motion does; with frames of other videos mixed in, content moves too."""
    torch.set_num_threads(1)
    read = reader(32)
    clips = np.stack([clip(i, FRAMES, 4, 32)[0] for i in range(VIDEOS)])
    mixed = np.random.default_rng(0).permutation(clips.reshape(-1, *clips.shape[2:])).reshape(clips.shape)
    kept = read.explained >= READABLE
    for frames, most in ((clips, 0.25), (mixed, np.inf)):
        found = spread(read(scaled(frames.reshape(-1, *frames.shape[2:]))).unflatten(0, (VIDEOS, FRAMES)))
        content, motion = found[: len(CONTENT)][kept[: len(CONTENT)]], found[len(CONTENT) :][kept[len(CONTENT) :]]
        assert (float(content.median()) <= 0.25) == (most == 0.25)
        assert most == np.inf or float(motion.median()) > 1
