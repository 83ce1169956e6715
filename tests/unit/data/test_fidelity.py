"""What the default settings of ingest leave of a video: the frames that training draws, against the source."""

import itertools
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from mvgan.config import Run
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.shards import ShardSet
from mvgan.data.synthetic import factors, render_clip
from mvgan.media import encode_video


REAL = pytest.mark.skipif("MVGAN_TEST_DATA" not in os.environ, reason="MVGAN_TEST_DATA is not set")
LEAST_DB = 38
EXACT = (
    Interpolation.BICUBIC
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
)
"""Without these flags the library's own conversion to RGB is further from the source than the shards are."""


def weights(source: int, target: int) -> np.ndarray:
    """[target, source], by loops: the overlap of pixels when shrinking, Lanczos with three lobes when enlarging."""
    scale = source / target
    found = np.zeros((target, source))
    for place, pixel in itertools.product(range(target), range(-3, source + 3)):
        if scale >= 1:
            weight = max(0.0, min(pixel + 1, (place + 1) * scale) - max(pixel, place * scale))
        else:
            distance = (place + 0.5) * scale - 0.5 - pixel
            weight = float(np.sinc(distance) * np.sinc(distance / 3)) if abs(distance) < 3 else 0.0
        found[place, min(max(pixel, 0), source - 1)] += weight  # the edge pixel repeats
    return found / found.sum(1, keepdims=True)


def expected_frames(path: Path, resolution: int) -> np.ndarray:
    """All frames [t, resolution, resolution, 3] of a video, float64: decoded by PyAV, cut to the centre square and resized."""
    converter = VideoReformatter()
    with av.open(str(path)) as container:
        frames = [
            converter.reformat(frame, format="rgb24", src_colorspace=Colorspace.ITU601, interpolation=EXACT).to_ndarray()
            for frame in container.decode(video=0)
        ]
    height, width = frames[0].shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    resize = weights(side, resolution)
    squares = np.stack(frames)[:, top : top + side, left : left + side].astype(float)
    return np.einsum("ij,tjkc,lk->tilc", resize, squares, resize, optimize=True)


def least_psnr(videos: Path, out: Path, resolution: int) -> float:
    """The lowest PSNR of a video, over all its frames, after an ingest by the default settings."""
    plan = plan_ingest(str(videos), str(out), Run(resolution=resolution))
    begin(plan)
    manifest = finish(plan, [ingest_group(group) for group in plan.groups])
    assert not manifest["rejected"]
    shards, found = ShardSet.open(str(out)), []
    for number, video in enumerate(manifest["videos"]):
        drawn = np.concatenate([shards.frames(number, piece) for piece in range(shards.num_pieces(number))]).transpose(0, 2, 3, 1)
        expected = expected_frames(videos / video["source"], resolution)
        assert drawn.shape == expected.shape
        found.append(10 * np.log10(255**2 / np.square(drawn - expected).mean()))
    return float(min(found))


@pytest.mark.parametrize("resolution", [32, 64])
@pytest.mark.parametrize(("height", "width"), [(72, 80), (48, 48)])
def test_ingested_synthetic_videos(height: int, width: int, resolution: int, tmp_path: Path) -> None:
    """72 rows are shrunk by fractions and their 80 columns cropped; 48 are enlarged to 64. 40 frames are pieces of 16, 16 and 8."""
    (tmp_path / "in").mkdir()
    for number, (content, motion) in enumerate(factors(4, 40, seed=6)):
        clip = render_clip(content, motion, width)[:, :, (width - height) // 2 :][:, :, :height]
        (tmp_path / "in" / f"{number}.mp4").write_bytes(encode_video(clip, 25, ".mp4"))
    assert least_psnr(tmp_path / "in", tmp_path / "out", resolution) >= LEAST_DB


@REAL
@pytest.mark.parametrize("resolution", [32, 64])
@pytest.mark.parametrize(("folder", "step"), [("talker", 25), ("piano", 53)])
def test_ingested_real_videos(folder: str, step: int, resolution: int, tmp_path: Path) -> None:
    """MPEG-1 of 360x288 and MPEG-4 part 2 of 320x240."""
    (tmp_path / "in").mkdir()
    for path in sorted(Path(os.environ["MVGAN_TEST_DATA"], folder).iterdir())[::step]:
        shutil.copy(path, tmp_path / "in")
    assert least_psnr(tmp_path / "in", tmp_path / "out", resolution) >= LEAST_DB
