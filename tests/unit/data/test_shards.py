"""Shard files and shard sets: what was packed comes back, and damage is told."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mvgan.config import Ingest, InputError, Run
from mvgan.data.decode import Video, resize_square
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.shards import ROWS_PER_GROUP, ShardSet
from mvgan.data.synthetic import render_set


RUN = Run(resolution=16, ingest=Ingest(frames_per_piece=4))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of 3 videos of 38 frames and its shard set: 30 pieces, two row groups."""
    root = tmp_path_factory.mktemp("shards")
    render_set(str(root / "videos"), num_videos=3, num_frames=38, size=32, seed=2)
    plan = plan_ingest(str(root / "videos"), str(root / "data"), RUN)
    begin(plan)
    finish(plan, [ingest_group(group) for group in plan.groups])
    return root / "videos", root / "data"


@pytest.fixture
def copy(made: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the shard set, to be damaged."""
    for file in made[1].rglob("*"):
        if file.is_file():
            target = tmp_path / file.relative_to(made[1])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return tmp_path


def shard_file(root: Path) -> Path:
    return root / json.loads((root / "manifest.json").read_text())["shards"][0]["path"]


def test_frames_are_those_of_the_videos(made: tuple[Path, Path]) -> None:
    """Reference: the source files, decoded and resized directly; pieces join without gap or overlap."""
    shards = ShardSet.open(str(made[1]))
    assert shards.lengths.tolist() == [38] * 3 and shards.fps.tolist() == [25.0] * 3
    for video, name in enumerate(shards.video_ids):
        pieces = [shards.frames(video, piece) for piece in range(shards.num_pieces(video))]
        assert [len(piece) for piece in pieces] == [4] * 9 + [2]
        with (made[0] / f"{name}.mp4").open("rb") as file:
            expected = np.stack([resize_square(picture.image, 16) for picture in Video(file)]).transpose(0, 3, 1, 2)
        error = (np.concatenate(pieces).astype(float) - expected) ** 2
        assert 10 * np.log10(255**2 / error.mean()) >= 38
    assert (shards.frames(1, 9, [1]) == shards.frames(1, 9)[1:]).all()
    with pytest.raises(IndexError):
        shards.frames(0, 10)
    with pytest.raises(InputError, match="damaged at row 9: decodes to 2 frames"):
        shards.frames(0, 9, [0, 2])


def test_the_file_is_plain_parquet(made: tuple[Path, Path]) -> None:
    """Reference: pyarrow's own reader, and the layout that the manifest states."""
    file = pq.ParquetFile(shard_file(made[1]))
    table = file.read()
    assert table.column_names == ["video", "video_id", "piece_index", "start_frame", "num_frames", "fps"]
    assert file.metadata.row_group(0).num_rows == ROWS_PER_GROUP
    for row in table.to_pylist():
        assert row["start_frame"] == 4 * row["piece_index"] and row["num_frames"] == min(4, 38 - row["start_frame"])
    manifest = json.loads((made[1] / "manifest.json").read_text())
    for video in manifest["videos"]:
        rows = table.slice(video["first_row"], 10).to_pylist()
        assert {row["video_id"] for row in rows} == {video["id"]} and [row["piece_index"] for row in rows] == list(range(10))
    shard = manifest["shards"][0]
    assert hashlib.sha256(shard_file(made[1]).read_bytes()).hexdigest() == shard["sha256"]


def test_a_shard_set_travels(made: tuple[Path, Path]) -> None:
    shards = ShardSet.open(str(made[1]))
    expected = shards.frames(1, 2)
    other = pickle.loads(pickle.dumps(shards))
    assert (other.frames(1, 2) == expected).all()
    assert other.content_hash == shards.content_hash


def test_no_manifest_and_another_format_are_told(copy: Path) -> None:
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(InputError, match="format_version 9"):
        ShardSet.open(str(copy))
    for text in ("{", "[]", "3", "{}"):
        manifest.write_text(text)
        with pytest.raises(InputError, match="no manifest of a shard set"):
            ShardSet.open(str(copy))
    manifest.write_text('{"format_version": 1}')
    with pytest.raises(InputError, match="is damaged: resolution is missing"):
        ShardSet.open(str(copy))
    manifest.unlink()
    with pytest.raises(InputError, match="no finished shard set"):
        ShardSet.open(str(copy))


def set_in(manifest: Any, where: tuple[str | int, ...], value: Any) -> Any:
    """`manifest` with another value at a place, or without it (None)."""
    entry = manifest
    for key in where[:-1]:
        entry = entry[key]
    if value is None:
        del entry[where[-1]]
    else:
        entry[where[-1]] = value
    return manifest


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("resolution",), None, "resolution is missing"),
        (("resolution",), "16", "resolution is not as expected"),
        (("frames_per_piece",), 0, "below 1"),
        (("videos",), None, "videos is missing"),
        (("lengths",), None, "lengths is missing"),
        (("shards",), [{}], r"shards\[0\]\.path is missing"),
        (("shards",), ["x"], r"shards\[0\] is no object"),
        (("videos", 1, "fps"), None, r"videos\[1\]\.fps is missing"),
        (("videos", 1, "shard"), 7, r"videos\[1\] does not begin"),
        (("videos", 1, "first_row"), 9, r"videos\[1\] does not begin"),
        (("num_videos",), 4, "num_videos is 4, its videos have 3"),
        (("num_frames",), 113, "num_frames is 113, its videos have 114"),
        (("shards", 0, "rows"), 29, "has 29 rows, its videos have 30 pieces"),
        (("rejected",), [1], r"rejected\[0\] is no object"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused_on_reading(copy: Path, where: tuple[str | int, ...], value: Any, said: str) -> None:
    file = copy / "manifest.json"
    file.write_text(json.dumps(set_in(json.loads(file.read_text()), where, value)))
    with pytest.raises(InputError, match=f"^{file} is damaged: .*{said}.*; delete the shard set and run ingest again$"):
        ShardSet.open(str(copy), verify=False)


def test_lengths_that_are_not_those_of_the_rows_are_told_before_any_is_drawn(copy: Path) -> None:
    """One frame less in the last piece: the counts agree among themselves, but not with the rows."""
    file = copy / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["videos"][2]["num_frames"] -= 1
    manifest["num_frames"] -= 1
    file.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest\.json is damaged: shard shards/00000-000\.parquet has other numbers of frames"):
        ShardSet.open(str(copy))


def test_a_missing_cut_or_altered_shard_is_named(copy: Path) -> None:
    file = shard_file(copy)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=f"{file.name} is damaged: its sha256"):
        ShardSet.open(str(copy))
    file.write_bytes(data[:-5])
    with pytest.raises(InputError, match=f"{file.name} is damaged: {len(data) - 5} bytes"):
        ShardSet.open(str(copy), verify=False)
    file.unlink()
    with pytest.raises(InputError, match=f"{file.name} is missing"):
        ShardSet.open(str(copy))


def test_a_row_altered_after_opening_is_named(copy: Path) -> None:
    """One bit within the video bytes of row 20: the decoder may not notice, the checksum of the page does."""
    file = shard_file(copy)
    video = pq.ParquetFile(file).read().column("video")[20].as_py()
    data = bytearray(file.read_bytes())
    data[data.index(video) + len(video) // 2] ^= 1
    file.write_bytes(data)
    shards = ShardSet.open(str(copy), verify=False)
    assert shards.frames(0, 0).shape == (4, 3, 16, 16)
    with pytest.raises(InputError, match=f"{file.name} is damaged at row 20"):
        shards.frames(2, 0)
