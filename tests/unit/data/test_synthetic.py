"""The synthetic set: what it promises to the rest of the project."""

import json
from pathlib import Path

import numpy as np
import pytest

from mvgan.config import InputError
from mvgan.data.decode import Video, resize_square
from mvgan.data.synthetic import factors, render_clip, render_set


def small(clip: np.ndarray) -> np.ndarray:
    """Frames at 32 px on [-1, 1]."""
    return np.stack([resize_square(frame.transpose(1, 2, 0), 32) for frame in clip]) / 127.5 - 1


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [small(render_clip(content, motion, 64)) for content, motion in factors(8, 48, seed=0)]


def test_motion_is_visible_but_smooth(clips: list[np.ndarray]) -> None:
    step = float(np.mean([((clip[4:] - clip[:-4]) ** 2).mean() for clip in clips]))
    assert 0.003 <= step <= 0.01
    assert float(np.mean([((clip[1:] - clip[:-1]) ** 2).mean() for clip in clips])) < step / 4


def test_content_differs_far_more_between_videos_than_within(clips: list[np.ndarray]) -> None:
    within = np.mean([((clip[:24].mean(0) - clip[24:].mean(0)) ** 2).mean() for clip in clips])
    between = np.mean([((a.mean(0) - b.mean(0)) ** 2).mean() for i, a in enumerate(clips) for b in clips[:i]])
    assert within < between / 6  # generated videos are asked for a quarter


def test_factors_move_within_their_ranges() -> None:
    for _, motion in factors(16, 100, seed=3):
        assert motion.mouth.min() >= 0 and motion.mouth.max() <= 1
        assert np.ptp(motion.mouth) > 0.5
        assert 0 <= motion.eyes.min() < 0.3 and motion.eyes.max() <= 1
        assert np.abs(motion.head_x).max() < 0.2 and np.abs(motion.tilt).max() < 0.3


def test_a_motion_factor_moves_its_part_of_the_face() -> None:
    content, motion = factors(1, 2, seed=0)[0]
    for values in vars(motion).values():
        values[:] = 0
    motion.eyes[:] = 1
    motion.mouth[1] = 1
    change = np.abs(np.diff(render_clip(content, motion, 64).astype(int), axis=0)[0]).sum(0)
    assert change[40:].sum() > 5 * change[:32].sum()  # the mouth is in the lower half; the brows follow a little


def test_a_set_is_deterministic_resumable_and_guarded(tmp_path: Path) -> None:
    paths = render_set(str(tmp_path / "a"), num_videos=3, num_frames=6, size=32, seed=7)
    first = {path: Path(path).read_bytes() for path in paths}
    Path(paths[1]).unlink()
    times = Path(paths[0]).stat().st_mtime_ns
    assert render_set(str(tmp_path / "a"), 3, 6, 32, 7) == paths
    assert Path(paths[0]).stat().st_mtime_ns == times
    assert {path: Path(path).read_bytes() for path in paths} == first
    with pytest.raises(InputError, match="seed 7"):
        render_set(str(tmp_path / "a"), 3, 6, 32, 8)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "own.txt").write_text("mine")
    with pytest.raises(InputError, match="no synthetic set"):
        render_set(str(tmp_path / "b"), 3, 6, 32, 7)


def test_files_hold_the_clips_and_their_factors(tmp_path: Path) -> None:
    paths = render_set(str(tmp_path), num_videos=2, num_frames=6, size=32, seed=1)
    written = json.loads((tmp_path / "factors.json").read_text())
    for path, (content, motion) in zip(paths, factors(2, 6, seed=1), strict=True):
        with open(path, "rb") as file:
            video = Video(file)
            decoded = np.stack([picture.image for picture in video]).transpose(0, 3, 1, 2).astype(float)
        clip = render_clip(content, motion, 32)
        assert video.rate == 25 and decoded.shape == clip.shape
        assert np.abs(decoded.mean(1) - clip.mean(1)).mean() < 6  # brightness: colour is stored at half resolution
        entry = written["videos"][Path(path).name]
        assert entry["content"]["hair_shape"] == content.hair_shape
        assert entry["motion"]["mouth"] == pytest.approx(motion.mouth, abs=1e-4)
