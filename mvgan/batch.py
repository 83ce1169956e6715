"""Thousands of videos in a folder or below an s3:// prefix: what is made where, one group at a time, and a manifest of all of it.

`batch.json` is written first and says what the folder is for; each video file or Parquet file is written whole under its
final name; `manifest.json` is written last. So the same batch begun again makes what is missing, and nothing else.
"""

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mvgan.config import InputError
from mvgan.media import movie_file
from mvgan.nets.latent import Side
from mvgan.sample import Generator, exported_settings
from mvgan.settings import differences
from mvgan.storage.uri import Store, open_store
from mvgan.train.export import exported_files, networks_sha256


FORMAT_VERSION = 1
RECORD, MANIFEST = "batch.json", "manifest.json"

GROUP = 16
"""Videos that a task makes, and rows of a Parquet file."""

Format = Literal["mp4", "parquet"]

Video = tuple[int, int]
"""Its seeds: of the content and of the motion."""

SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("motion_seed", pa.int64()),
        ("fps", pa.float64()),
        ("num_frames", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("frames", pa.binary()),
    ]
)
"""A row of a Parquet file: a video, its `frames` as an MP4 file."""


@dataclass(frozen=True)
class Batch:
    """What all videos of a batch share; a change of any of it is another batch."""

    generator_sha256: str
    """Of the exported networks and their settings."""
    num_frames: int
    truncation: float
    first: Side
    fps: float
    format: Format
    interpolate: int = 0
    hold: bool = False


@dataclass(frozen=True)
class Group:
    """Number `index` of the groups of a batch."""

    index: int
    videos: tuple[Video, ...]


def groups_of(seeds: Sequence[int], motion_seeds: Sequence[int] | None) -> list[Group]:
    """The videos of `seeds`, each with the motion of its own seed or with each of `motion_seeds`, cut into groups of GROUP."""
    videos = [(seed, motion) for seed in seeds for motion in (motion_seeds or [seed])]
    return [Group(place // GROUP, tuple(videos[place : place + GROUP])) for place in range(0, len(videos), GROUP)]


def exported_sha256(run: str) -> str:
    """`Batch.generator_sha256` of the run at the URI `run`, as it is now. Raises InputError when it has not finished."""
    store = open_store(run)
    return networks_sha256(exported_files(store, "video"), exported_settings(store)[0], "video")


def begin(out: str, batch: Batch, groups: Sequence[Group]) -> dict[str, Any] | None:
    """Claim the folder `out` for a batch; returns its manifest when it is whole already, by the hashes of all files.

    Those that differ from the manifest are removed, to be made again.

    Raises InputError when the folder holds something else, or a batch of other settings, videos or another generator.
    """
    store, record = open_store(out), _record(batch, groups)
    if not store.exists(RECORD):
        if store.list():
            raise InputError(f"--out {out} is a folder that is not empty and holds no batch of videos; give a new or empty one")
        if store.create(RECORD, json.dumps(record, indent=1).encode()):
            return None
    found = _read(store, RECORD)
    if changed := differences(found, record):
        what = "; ".join(f"{path} was {old!r}, now {new!r}" for path, (old, new) in changed.items())
        raise InputError(f"--out {out} holds another batch of videos: {what}. Give the old settings, or another folder")
    if not store.exists(MANIFEST):
        return None
    manifest = _read(store, MANIFEST)
    objects = manifest.get("objects")
    if not isinstance(objects, list) or not all(isinstance(entry, dict) and {"path", "sha256"} <= entry.keys() for entry in objects):
        return None
    wrong = [entry["path"] for entry in objects if not _whole(store, entry["path"], entry["sha256"])]
    for path in filter(store.exists, wrong):
        store.delete(path)  # so that it is made again
    return None if wrong or not objects else manifest


def _whole(store: Store, path: str, sha256: str) -> bool:
    if not store.exists(path):
        return False
    with store.open(path) as file:
        return _sha256(file) == sha256


def _sha256(file: BinaryIO) -> str:
    """Of an open file, in bounded memory."""
    found = hashlib.sha256()
    while part := file.read(1 << 20):
        found.update(part)
    return found.hexdigest()


def make_group(run: str, out: str, batch: Batch, group: Group, device: torch.device) -> list[dict[str, Any]]:
    """Make those objects of a group that are not there yet; returns what the manifest says of each, in order.

    Memory holds a piece of one video; for Parquet also the MP4 file of one, as it is a value of the table.
    Raises InputError when the generator has changed since the batch began.
    """
    store = open_store(out)
    if batch.format == "parquet":
        objects = {f"videos/{group.index:06d}.parquet": group.videos}
    else:
        objects = {f"videos/{_name(video)}.mp4": (video,) for video in group.videos}
    entries = []
    for path, videos in objects.items():
        there = store.exists(path)
        with store.open(path) if there else _made(store, path, _generator(run, batch.generator_sha256, device), batch, videos) as file:
            sha256 = _sha256(file)
            entries.append({"path": path, "bytes": file.tell(), "sha256": sha256, "videos": [list(video) for video in videos]})
    return entries


def finish(out: str, batch: Batch, groups: Sequence[Group], entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write the manifest over what `make_group` returned for each group, in their order."""
    manifest = _record(batch, groups) | {"num_videos": sum(len(group.videos) for group in groups), "objects": list(entries)}
    open_store(out).write(MANIFEST, json.dumps(manifest).encode())
    return manifest


def _record(batch: Batch, groups: Sequence[Group]) -> dict[str, Any]:
    """What a batch is, as JSON gives it back. The videos enter by their hash, as there may be many."""
    videos = np.array([video for group in groups for video in group.videos], "<i8")
    return {
        "format_version": FORMAT_VERSION,
        **asdict(batch),
        "group": GROUP,
        "videos_sha256": hashlib.sha256(videos.tobytes()).hexdigest(),
    }


def _read(store: Store, name: str) -> dict[str, Any]:
    try:
        found = json.loads(store.read(name))
    except ValueError as error:
        raise InputError(f"{store.uri}/{name} is damaged ({error}); delete that folder, or give another one") from None
    if not isinstance(found, dict) or found.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{store.uri}/{name} is no record of a batch of videos of this version; give another folder")
    return found


def _name(video: Video) -> str:
    seed, motion = video
    return f"{seed:06d}" if seed == motion else f"{seed:06d}-{motion:06d}"


@functools.lru_cache(maxsize=1)
def _generator(run: str, sha256: str, device: torch.device) -> Generator:
    """The networks of a batch; a process keeps them for its next group."""
    if exported_sha256(run) != sha256:
        raise InputError(f"the networks of run {run} have changed since these videos were begun; make them anew in another folder")
    return Generator.load(run, device)


@contextmanager
def _made(store: Store, path: str, generator: Generator, batch: Batch, videos: Sequence[Video]) -> Iterator[BinaryIO]:
    """Put the object `path` in its place: the MP4 file of one video, or the Parquet file of several; gives it to be read."""
    with _movie(generator, batch, videos[0]) if batch.format == "mp4" else _table(generator, batch, videos) as made:
        store.put(path, made)
        with open(made, "rb") as file:
            yield file


@contextmanager
def _table(generator: Generator, batch: Batch, videos: Sequence[Video]) -> Iterator[str]:
    """The path of the Parquet file of `videos`, a row group each, so that neither it nor its readers need hold more than one."""
    compression = {name: "none" if name == "frames" else "zstd" for name in SCHEMA.names}  # an MP4 is compressed already
    with tempfile.TemporaryDirectory(prefix="mvgan-") as folder:
        path = os.path.join(folder, "videos.parquet")
        with pq.ParquetWriter(path, SCHEMA, compression=compression, write_page_checksum=True) as writer:
            for video in videos:
                writer.write_table(pa.Table.from_pylist([_row(generator, batch, video)], schema=SCHEMA))
        yield path


def _row(generator: Generator, batch: Batch, video: Video) -> dict[str, Any]:
    size = generator.run.resolution
    shared = {"fps": batch.fps, "num_frames": batch.num_frames, "width": size, "height": size}
    with _movie(generator, batch, video) as made, open(made, "rb") as file:
        return {"seed": video[0], "motion_seed": video[1], **shared, "frames": file.read()}


def _movie(generator: Generator, batch: Batch, video: Video) -> AbstractContextManager[str]:
    """The path of its MP4 file."""
    return movie_file(_frames(generator, batch, video), batch.fps, ".mp4")


def _frames(generator: Generator, batch: Batch, video: Video) -> Iterator[np.ndarray]:
    """Its frames uint8 [3, h, w], in bounded memory."""
    seed, motion = video
    for piece in generator.stream(
        seed, batch.num_frames, batch.truncation,
        motion_seed=motion, first=batch.first, interpolate=batch.interpolate, hold=batch.hold,
    ):  # fmt: skip
        yield from piece
