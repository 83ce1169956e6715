"""Batches of videos: the files against `Generator.stream`, and what is made again."""

import io
import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mvgan import batch as module
from mvgan.batch import Batch, Format, Group, begin, exported_sha256, finish, groups_of, make_group
from mvgan.config import InputError
from mvgan.media import encode_video
from mvgan.sample import Generator
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import open_store


CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP", 2)


def batch_of(run: str, kind: Format) -> Batch:
    return Batch(exported_sha256(run), 5, 0.7, "former", 12.5, kind)


def make(run: str, out: str, batch: Batch, groups: list[Group]) -> dict[str, object]:
    assert begin(out, batch, groups) is None
    return finish(out, batch, groups, [entry for group in groups for entry in make_group(run, out, batch, group, CPU)])


def expected(run: str, seed: int, motion: int) -> bytes:
    """The MP4 file of a video of 5 frames."""
    return encode_video(np.concatenate(list(Generator.load(run).stream(seed, 5, 0.7, motion_seed=motion, first="former"))), 12.5, ".mp4")


def test_groups() -> None:
    assert groups_of([4, 5, 9], None) == [Group(0, ((4, 4), (5, 5))), Group(1, ((9, 9),))]
    assert groups_of([4, 5], [7, 8, 9])[1] == Group(1, ((4, 9), (5, 7)))


def test_mp4_files(tiny_run: RunFolder, tmp_path: Path) -> None:
    """Each to the byte that of the stream alone; the manifest tells them."""
    manifest = make(tiny_run.uri, str(tmp_path / "out"), batch_of(tiny_run.uri, "mp4"), groups_of([3, 12], [3, 7]))
    files = {path.name: path.read_bytes() for path in (tmp_path / "out/videos").iterdir()}
    assert sorted(files) == ["000003-000007.mp4", "000003.mp4", "000012-000003.mp4", "000012-000007.mp4"]
    assert files["000003.mp4"] == expected(tiny_run.uri, 3, 3) and files["000012-000007.mp4"] == expected(tiny_run.uri, 12, 7)
    assert json.loads((tmp_path / "out/manifest.json").read_text()) == manifest
    objects = manifest["objects"]
    assert isinstance(objects, list) and manifest["num_videos"] == 4
    assert [(entry["path"], entry["videos"]) for entry in objects][1] == ("videos/000003-000007.mp4", [[3, 7]])
    assert all(entry["bytes"] == len(files[entry["path"][7:]]) for entry in objects)


def test_parquet_files(tiny_run: RunFolder, s3: str) -> None:
    """On S3; rows read by pyarrow, videos by PyAV."""
    out = f"{s3}/batch"
    make(tiny_run.uri, out, batch_of(tiny_run.uri, "parquet"), groups_of([3, 12, 5], None))
    store = open_store(out)
    assert list(store.list()) == ["batch.json", "manifest.json", "videos/000000.parquet", "videos/000001.parquet"]
    rows = [row for path in store.list("videos/") for row in pq.read_table(io.BytesIO(store.read(path))).to_pylist()]
    assert [(row["seed"], row["motion_seed"], row["fps"], row["num_frames"], row["width"], row["height"]) for row in rows] == [
        (seed, seed, 12.5, 5, 16, 16) for seed in (3, 12, 5)
    ]
    assert rows[1]["frames"] == expected(tiny_run.uri, 12, 12)
    assert [pq.ParquetFile(io.BytesIO(store.read(path))).num_row_groups for path in store.list("videos/")] == [2, 1], "one per video"
    with av.open(io.BytesIO(rows[1]["frames"]), "r") as container:
        assert [frame.width for frame in container.decode(video=0)] == [16] * 5


@pytest.mark.parametrize(("kind", "most"), [("mp4", 24 << 20), ("parquet", 80 << 20)])
def test_memory_does_not_hold_what_is_stored(
    kind: Format, most: int, tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Python's own count, for movies of 48 MB each: of an MP4 file a piece, of a Parquet file one movie; and when they are checked."""

    def large(path: str, frames: object, fps: float) -> None:
        with open(path, "wb") as file:
            file.truncate(48 << 20)

    monkeypatch.setattr("mvgan.media.write_movie", large)
    out, batch, groups = str(tmp_path), batch_of(tiny_run.uri, kind), groups_of([3, 12], None)
    module._generator(tiny_run.uri, batch.generator_sha256, CPU)
    tracemalloc.start()
    try:
        manifest = make(tiny_run.uri, out, batch, groups)
        assert begin(out, batch, groups) == manifest
        (entries,) = [make_group(tiny_run.uri, out, batch, group, CPU) for group in groups]
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
    assert entries == manifest["objects"] and sum(entry["bytes"] for entry in entries) > 96e6


@pytest.mark.parametrize("kind", ["mp4", "parquet"])
def test_only_what_is_missing_is_made(kind: Format, tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the batch was broken off before its manifest, or lost a file after it."""
    out, batch, groups = str(tmp_path), batch_of(tiny_run.uri, kind), groups_of(range(5), None)
    manifest = make(tiny_run.uri, out, batch, groups)
    assert begin(out, batch, groups) == manifest
    lost = tmp_path / ("videos/000002.mp4" if kind == "mp4" else "videos/000001.parquet")
    whole, made = lost.read_bytes(), []
    content = module._made
    monkeypatch.setattr(module, "_made", lambda *given: made.append(given[4]) or content(*given))  # type: ignore[func-returns-value]
    for manifest_too in (False, True):
        lost.unlink()
        if manifest_too:
            (tmp_path / "manifest.json").unlink()
        assert make(tiny_run.uri, out, batch, groups) == manifest
        assert lost.read_bytes() == whole
    assert made == [((2, 2),) if kind == "mp4" else ((2, 2), (3, 3))] * 2


def test_other_settings_videos_and_generators_are_refused(tiny_run: RunFolder, tmp_path: Path) -> None:
    """In one line that names the difference; nothing is written."""
    out, batch, groups = str(tmp_path / "out"), batch_of(tiny_run.uri, "mp4"), groups_of(range(3), None)
    begin(out, batch, groups)
    record = (tmp_path / "out/batch.json").read_bytes()
    other = Batch("another", 6, 0.7, "former", 12.5, "mp4")
    for wrong, videos, said in ((other, groups, "num_frames was 5, now 6"), (batch, groups_of(range(4), None), "videos_sha256 was")):
        with pytest.raises(InputError, match=said) as error:
            begin(out, wrong, videos)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="generator_sha256 was"):
        begin(out, other, groups)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no batch of videos"):
        begin(str(tmp_path / "mine"), batch, groups)
    (tmp_path / "out/batch.json").write_text("{")
    with pytest.raises(InputError, match=r"batch\.json is damaged"):
        begin(out, batch, groups)
    assert record and sorted(path.name for path in tmp_path.rglob("*")) == ["batch.json", "mine", "notes.txt", "out"]


def test_a_generator_that_changes_meanwhile_is_refused(tiny_run: RunFolder, tmp_path: Path) -> None:
    copied = shutil.copytree(tiny_run.uri, tmp_path / "run")
    batch, groups = batch_of(str(copied), "mp4"), groups_of([0], None)
    path = copied / "export/latent.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    with pytest.raises(InputError, match="have changed since these videos were begun"):
        make_group(str(copied), str(tmp_path / "out"), batch, groups[0], CPU)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_damaged_file_is_made_again(damage: Callable[[bytes], bytes], tiny_run: RunFolder, tmp_path: Path) -> None:
    """One that was cut off, and one of the right length: the same batch again gives the bytes and the manifest of before."""
    out, batch, groups = str(tmp_path / "out"), batch_of(tiny_run.uri, "mp4"), groups_of([3, 12], None)
    manifest = make(tiny_run.uri, out, batch, groups)
    path = tmp_path / "out/videos/000012.mp4"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert make(tiny_run.uri, out, batch, groups) == manifest and path.read_bytes() == whole
    assert begin(out, batch, groups) == manifest


def test_a_manifest_that_lacks_what_it_should_tell_is_written_again(tiny_run: RunFolder, tmp_path: Path) -> None:
    out, batch, groups = str(tmp_path / "out"), batch_of(tiny_run.uri, "mp4"), groups_of([3], None)
    manifest = make(tiny_run.uri, out, batch, groups)
    (tmp_path / "out/manifest.json").write_text(json.dumps(manifest | {"objects": [{"path": "videos/000003.mp4"}]}))
    assert make(tiny_run.uri, out, batch, groups) == manifest
