"""Controls of the built-in measure of clips: it rises when real clips are spoilt, and more with more of it."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mvgan.data.decode import Video, resize_square
from mvgan.data.synthetic import draw_content, draw_motion, render_clip
from mvgan.metrics.features import CLIP_CONTENT, ClipFeatures
from mvgan.metrics.frechet import frechet_distance
from mvgan.metrics.moments import Moments


LENGTH, LONGEST = 16, 4
"""Frames of a clip, and the fastest speed it is played at."""

torch.set_num_threads(1)


def shuffled(clips: Tensor, share: float) -> Tensor:
    """A share of the frames change places within each clip."""
    generator, result = torch.Generator().manual_seed(0), clips.clone()
    for clip, spoilt in zip(clips, result, strict=True):
        chosen = torch.randperm(LENGTH, generator=generator)[: round(share * LENGTH)]
        spoilt[chosen] = clip[chosen[torch.randperm(len(chosen), generator=generator)]]
    return result


def frozen(clips: Tensor, share: float) -> Tensor:
    """The picture stands still for the last share of each clip."""
    moving = max(1, round((1 - share) * LENGTH))
    return torch.cat([clips[:, :moving], clips[:, moving - 1 : moving].expand(-1, LENGTH - moving, -1, -1, -1)], 1)


def noised(clips: Tensor, sigma: float) -> Tensor:
    """With noise of `sigma` grey levels, new in each frame."""
    generator = torch.Generator().manual_seed(0)
    return (clips.float() + sigma * torch.randn(clips.shape, generator=generator)).clamp(0, 255).round().byte()


def cut(videos: list[Tensor], speed: int = 1) -> Tensor:
    """Two clips of each video [t, 3, h, w], played `speed` times as fast."""
    return torch.stack([video[start:][: LENGTH * speed : speed] for video in videos for start in (0, len(video) - LENGTH * LONGEST)])


def synthetic() -> tuple[list[Tensor], list[Tensor]]:
    """Two sets of talking cartoon faces."""

    def face(seed: int) -> Tensor:
        rng = np.random.default_rng(seed)
        return torch.from_numpy(render_clip(draw_content(rng), draw_motion(rng, 72), 32))

    faces = [face(seed) for seed in range(160)]
    return faces[:80], faces[80:]


def talker() -> tuple[list[Tensor], list[Tensor]]:
    """Every second clip of the real speaker, and the others."""
    root = os.environ.get("MVGAN_TEST_DATA")
    if not root:
        pytest.skip("MVGAN_TEST_DATA is not set")
    clips = []
    for path in sorted(Path(root, "talker").glob("*.mp*")):
        with path.open("rb") as file:
            clips.append(torch.from_numpy(np.stack([resize_square(picture.image, 32) for picture in Video(file)])).permute(0, 3, 1, 2))
    return clips[::2], clips[1::2]


@pytest.mark.parametrize("clips", [synthetic, talker])
def test_the_measure_rises_when_clips_are_spoilt(clips: Callable[[], tuple[list[Tensor], list[Tensor]]]) -> None:
    """Against other clips of the same kind; each way of spoiling at three strengths, from none on."""
    features = ClipFeatures()
    real, others = clips()
    reference, same = Moments.of(features(cut(real))), cut(others)

    def distance(spoilt: Tensor) -> float:
        return frechet_distance(reference, Moments.of(features(spoilt)))

    curves = {
        "shuffled": [distance(shuffled(same, share)) for share in (0, 0.25, 0.5, 1)],
        "frozen": [distance(frozen(same, share)) for share in (0, 0.5, 0.75, 1)],
        "noised": [distance(noised(same, sigma)) for sigma in (0, 2, 5, 10)],
        "faster": [distance(cut(others, speed)) for speed in (1, 2, 3, 4)],
        "slower": [distance(same.repeat_interleave(times, 1)[:, :LENGTH]) for times in (1, 2, 4)],
    }
    for name, curve in curves.items():
        print(f"{clips.__name__}, {name}: {', '.join(f'{value:.3f}' for value in curve)}")
    assert all(a < b for curve in curves.values() for a, b in itertools.pairwise(curve))


def test_features_of_clips() -> None:
    """Fixed by the seed, whatever the batch and the range; a clip without motion has the same motion as any other such."""
    clips = torch.randint(0, 256, (5, 6, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features = ClipFeatures(seed=3)
    whole = features(clips)
    assert whole.shape == (5, ClipFeatures.dim) and whole.dtype == torch.float32
    torch.testing.assert_close(ClipFeatures(seed=3)(clips, batch=2), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(features(clips.float() / 127.5 - 1), whole, rtol=0, atol=1e-5)
    assert not torch.allclose(ClipFeatures(seed=4)(clips), whole, atol=0.1)
    still = features(clips[:, :1].expand(-1, 6, -1, -1, -1))[:, CLIP_CONTENT:]
    torch.testing.assert_close(still, still[:1].expand_as(still), rtol=0, atol=1e-6)
    for shape in ((2, 2, 3, 32, 32), (2, 6, 1, 32, 32), (6, 3, 32, 32)):
        with pytest.raises(ValueError, match="expected clips"):
            features(torch.zeros(shape))
