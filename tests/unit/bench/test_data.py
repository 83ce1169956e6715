"""The sides of the data benchmark: random access reads the frames that it says, and all sides draw the same pairs."""

import dataclasses
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from jobs import bench as verb
from mvgan.bench import data, windows
from mvgan.config import Run
from mvgan.data import shards as shards_module
from mvgan.data.decode import Video, resize_square
from mvgan.data.shards import ShardSet
from mvgan.media import encode_video
from mvgan.validation import validate
from tests.unit.jobs.test_cli import refused


RUN = Run(resolution=16)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips of 40 frames at 32 px; frame t of each is grey of 20 + 5 t, with a bright corner."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(5):
        frames = np.empty((40, 3, 32, 48), np.uint8)
        frames[:] = 20 + 5 * np.arange(40)[:, None, None, None]
        frames[:, number % 3, :16, 8:20] = 250
        (folder / f"clip{number}.mp4").write_bytes(encode_video(frames, 25, ".mp4"))
    return folder


@pytest.mark.parametrize("frames", [(3, 7), (30, 26), (0, 39), (12, 11)])
def test_random_access_reads_the_frames(clips: Path, frames: tuple[int, int]) -> None:
    """Reference: PyAV from the start, with our own crop and resize; of all frames the asked ones are the nearest."""
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed (extra `bench`)")
    path = str(clips / "clip1.mp4")
    reader = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    data.read_pair(cv2, reader, (20, 24), 16)  # it may stand anywhere before
    with open(path, "rb") as file:
        decoded = np.stack([resize_square(picture.image, 16) for picture in Video(file)]).transpose(0, 3, 1, 2)
    got = data.read_pair(cv2, reader, frames, 16)
    assert got.shape == (2, 3, 16, 16)
    errors = np.abs(got[:, None].astype(int) - decoded).mean((2, 3, 4))
    assert tuple(errors.argmin(1)) == frames and errors.min() < 4


def test_all_sides_draw_the_same_pairs(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2", reason="opencv-python-headless is not installed (extra `bench`)")
    shards = data.make_shards(str(clips), str(tmp_path), RUN)
    assert shards == data.make_shards(str(clips), str(tmp_path), RUN)
    decoded: list[np.ndarray] = []
    read: list[np.ndarray] = []

    def keep(function: Any, into: list[np.ndarray]) -> Any:
        return lambda *arguments: into.append(function(*arguments)) or into[-1]

    monkeypatch.setattr(data, "decode_window", keep(data.decode_window, decoded))
    monkeypatch.setattr(data, "read_pair", keep(data.read_pair, read))
    monkeypatch.setattr(shards_module, "CACHED_BYTES", shards_module.CACHED_BYTES)
    assert next(data.from_shards(shards, RUN, False)) == 64
    assert len(shards_module._ROW_GROUPS._groups) == 1, "rows of more than the last read are kept"
    assert sum(itertools.islice(data.by_random_access(str(clips), shards, RUN), 64)) == 64
    # 4:2:0 with two ways to shrink it: frames of other places or clips would differ by far more.
    assert np.abs(decoded[0].astype(int) - np.stack(read)).mean() < 4


def test_the_clips_have_long_groups_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "NUM_CLIPS", 1)
    folder = data.render_clips(tmp_path / "clips", 16)
    with av.open(str(tmp_path / "clips/face_00.mp4")) as container:
        keys = [number for number, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert keys == [0, 250]
    before = (tmp_path / "clips/face_00.mp4").stat().st_mtime_ns
    assert data.render_clips(Path(folder), 16) == folder
    assert (tmp_path / "clips/face_00.mp4").stat().st_mtime_ns == before


def test_a_copy_on_s3_is_whole(clips: Path, tmp_path: Path, s3: str) -> None:
    local = data.make_shards(str(clips), str(tmp_path), RUN)
    there, here = ShardSet.open(data.copy_shards(local, f"{s3}/bench")), ShardSet.open(local)
    assert there.content_hash == here.content_hash
    np.testing.assert_array_equal(there.frames(2, 1), here.frames(2, 1))


def nothing(shards: str, run: Run) -> Iterator[int]:
    yield 0


def test_what_is_compared() -> None:
    local = data.benchmark("videos", "shards", None, RUN, nothing, 3)
    assert local.ratios[0].name == "shards, uncached / opencv", "the figure that the issue asks for first, with no row group kept"
    both = data.benchmark("videos", "shards", "s3://bucket/shards", RUN, nothing, 3)
    assert [side.arguments[0] for side in both.sides] == ["shards", "shards", "videos", "shards", "s3://bucket/shards"]
    assert {side.name: side.processes for side in local.sides} == {"shards": 3, "stream": 1, "opencv": 1, "shards, uncached": 1}
    for found in (local, both, windows.benchmark("shards", RUN)):
        names = [side.name for side in found.sides]
        assert len(set(names)) == len(names) and {name for r in found.ratios for name in (r.fast, r.slow)} <= set(names)


def test_windows_of_all_shapes_are_valid() -> None:
    """Also: all sides differ in their shape alone."""
    runs = [side.arguments[1] for side in windows.benchmark("shards", RUN).sides]
    for run in runs:
        pairs = dataclasses.replace(run.pairs, pairs_per_piece=RUN.pairs.pairs_per_piece, pieces_per_window=RUN.pairs.pieces_per_window)
        assert dataclasses.replace(run, pairs=pairs) == validate(RUN)
    shapes = {(run.pairs.pairs_per_piece, run.pairs.pieces_per_window) for run in runs}
    assert shapes == {(1, 16), (2, 16), (4, 16), (8, 16), (16, 16), (4, 8), (4, 32)}


def test_mistakes_are_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = "--out", str(tmp_path / "out")
    assert "data reads no --device" in refused(verb.run, verb.Flags, "data", "--device", "cuda", *out)
    assert "above 0" in refused(verb.run, verb.Flags, "data", "--rounds", "0", *out)
    assert "'data', 'windows'" in refused(verb.run, verb.Flags, "nothing", *out) or "data" in refused(verb.run, verb.Flags, "x", *out)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert "need psutil" in refused(verb.run, verb.Flags, "data", *out)
    assert not (tmp_path / "out").exists()
