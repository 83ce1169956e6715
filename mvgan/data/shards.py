"""Shard sets: Parquet files of video pieces and the manifest that makes them one data set.

A row is a piece: consecutive frames of one video at training resolution, as compressed bytes. The pieces of a video
are consecutive rows of one shard. `manifest.json` is written last, so a set without one is unfinished.
"""

import hashlib
import io
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mvgan.config import InputError
from mvgan.data.decode import Undecodable, decode_piece
from mvgan.storage.uri import Store, open_store


FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PLAN = "plan.json"
"""Written first: a folder with it belongs to one set of sources and settings."""
ROWS_PER_GROUP = 16
"""Rows that are read at once."""
HASHED_BYTES = 2 << 30
"""Sets below this size are checked by sha256 when opened; of larger ones only the sizes are."""
CACHED_BYTES = 256 << 20
"""Most bytes of row groups that a process keeps."""
OPEN_FILES = 32
"""Most shard files that a shard set keeps open in a process."""

SCHEMA = pa.schema(
    [
        ("video", pa.binary()),
        ("video_id", pa.string()),
        ("piece_index", pa.int32()),
        ("start_frame", pa.int32()),
        ("num_frames", pa.int32()),
        ("fps", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Piece:
    """A row of a shard. `video` is an Annex B H.264 byte stream, one closed group of pictures."""

    video: bytes
    video_id: str
    piece_index: int
    start_frame: int
    num_frames: int
    fps: float


def pack_shard(pieces: Sequence[Piece]) -> bytes:
    """A Parquet file of `pieces`, in their order. Its pages carry checksums, by which an altered row is told."""
    file = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist([asdict(piece) for piece in pieces], schema=SCHEMA),
        file,
        row_group_size=ROWS_PER_GROUP,
        use_dictionary=["video_id"],
        compression={name: "none" if name == "video" else "zstd" for name in SCHEMA.names},  # video is compressed already
        write_statistics=["piece_index", "start_frame", "num_frames"],
        write_page_checksum=True,
    )
    return file.getvalue()


class _RowGroups:
    """The row groups read last in this process, of all shard sets, within CACHED_BYTES."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[str, int, int], list[dict[str, Any]]] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[str, int, int]) -> list[dict[str, Any]] | None:
        with self._lock:
            if key in self._groups:
                self._groups.move_to_end(key)
            return self._groups.get(key)

    def put(self, key: tuple[str, int, int], rows: list[dict[str, Any]]) -> None:
        with self._lock:
            if key in self._groups:
                return
            self._groups[key] = rows
            self._bytes += _size(rows)
            while self._bytes > CACHED_BYTES and len(self._groups) > 1:
                self._bytes -= _size(self._groups.popitem(last=False)[1])


def _size(rows: list[dict[str, Any]]) -> int:
    return sum(len(row["video"]) for row in rows)


_ROW_GROUPS = _RowGroups()


class ShardSet:
    """A finished shard set, to draw frames from. Can be pickled; files are opened when first needed.

    `lengths` int64 [num_videos] and `fps` float64 [num_videos] are in the order of the manifest's videos, and
    a video is named by its place there.
    """

    def __init__(self, uri: str, manifest: dict[str, Any]) -> None:
        self.uri = uri
        self.manifest = manifest
        self.resolution: int = manifest["resolution"]
        self.frames_per_piece: int = manifest["frames_per_piece"]
        videos = manifest["videos"]
        self.video_ids: list[str] = [video["id"] for video in videos]
        self.lengths = np.array([video["num_frames"] for video in videos], np.int64)
        self.fps = np.array([video["fps"] for video in videos], np.float64)
        joined = "".join(shard["sha256"] for shard in manifest["shards"])
        self.content_hash = hashlib.sha256(joined.encode()).hexdigest()
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, uri: str, verify: bool = True) -> "ShardSet":
        """The shard set at `uri`, its files checked against the manifest.

        Raises InputError when there is no manifest or one of another format, or when a shard is missing or
        of another size or, with `verify` and below HASHED_BYTES, of other content.
        """
        store = open_store(uri)
        manifest = read_manifest(store)
        if manifest is None:
            raise InputError(f"{store.uri} holds no finished shard set (no {MANIFEST}); run ingest with --out {store.uri}")
        check_files(store, manifest, verify)
        return cls(store.uri, manifest)

    def __reduce__(self) -> tuple[type["ShardSet"], tuple[str, dict[str, Any]]]:
        return ShardSet, (self.uri, self.manifest)

    def __len__(self) -> int:
        return len(self.lengths)

    def num_pieces(self, video: int) -> int:
        """How many pieces `video` has."""
        return -(-int(self.lengths[video]) // self.frames_per_piece)

    def frames(self, video: int, piece: int, places: Sequence[int] | None = None) -> np.ndarray:
        """The frames uint8 `[t, 3, h, w]` of piece number `piece` of `video`; t falls short in a last piece only.

        With `places`, ascending, only the frames at these places of the piece are given, and what follows them is not decoded.
        Raises InputError, naming shard and row, when the row is damaged, and IndexError when there is no such piece.
        """
        if not 0 <= piece < self.num_pieces(video):
            raise IndexError(f"video {video} has {self.num_pieces(video)} pieces; there is no piece {piece}")
        entry = self.manifest["videos"][video]
        shard, row = entry["shard"], entry["first_row"] + piece
        expected = min(self.frames_per_piece, entry["num_frames"] - piece * self.frames_per_piece)
        try:
            found = self._row(shard, row)
            if (found["video_id"], found["piece_index"], found["num_frames"]) != (entry["id"], piece, expected):
                raise Undecodable(f"holds piece {found['piece_index']} of {found['video_id']!r}, {found['num_frames']} frames")
            frames = decode_piece(found["video"], places)
            if frames.shape != (expected if places is None else len(places), self.resolution, self.resolution, 3):
                raise Undecodable(f"decodes to frames {frames.shape}")
        except (ConnectionError, TimeoutError):
            raise  # the storage may answer again
        except PermissionError as error:
            raise InputError(
                f"shard {self.uri}/{self.manifest['shards'][shard]['path']} cannot be read: {error}; mend the access"
            ) from error
        except (Undecodable, pa.ArrowInvalid, OSError, IndexError) as error:
            path = self.manifest["shards"][shard]["path"]
            message = f"shard {self.uri}/{path} is damaged at row {row}: {error}; delete the shard set and run ingest again"
            raise InputError(" ".join(message.split())) from error
        return np.ascontiguousarray(frames.transpose(0, 3, 1, 2))

    def _row(self, shard: int, row: int) -> dict[str, Any]:
        group = row // ROWS_PER_GROUP
        key = (self.uri + self.content_hash, shard, group)
        rows = _ROW_GROUPS.get(key)
        if rows is None:
            with self._lock:
                rows = self._file(shard).read_row_group(group).to_pylist()
            _ROW_GROUPS.put(key, rows)
        return rows[row % ROWS_PER_GROUP]

    def _file(self, shard: int) -> pq.ParquetFile:
        if shard not in self._files:
            file = open_store(self.uri).open(self.manifest["shards"][shard]["path"])
            self._files[shard] = pq.ParquetFile(file, page_checksum_verification=True)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close(force=True)
        self._files.move_to_end(shard)
        return self._files[shard]


def read_manifest(store: Store) -> dict[str, Any] | None:
    """The manifest of the shard set at `store`, None when there is none. Raises InputError for one not of ours."""
    try:
        data = store.read(MANIFEST)
    except FileNotFoundError:
        return None
    try:
        manifest = json.loads(data)
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{store.uri}/{MANIFEST} is no manifest of a shard set; give another folder or run ingest again") from error
    if version != FORMAT_VERSION:
        raise InputError(f"{store.uri}/{MANIFEST} has format_version {version!r}; this version reads {FORMAT_VERSION}: run ingest again")
    return dict(manifest)


def check_files(store: Store, manifest: dict[str, Any], verify: bool) -> None:
    """Raises InputError when a shard of `manifest` is missing, or of another size or, with `verify`, of other content."""
    sizes = store.list("shards/")
    hashed = verify and sum(shard["bytes"] for shard in manifest["shards"]) < HASHED_BYTES
    for shard in manifest["shards"]:
        path = shard["path"]
        again = "delete the shard set and run ingest again"
        if path not in sizes:
            raise InputError(f"shard {store.uri}/{path} is missing; {again}")
        if sizes[path] != shard["bytes"]:
            raise InputError(f"shard {store.uri}/{path} is damaged: {sizes[path]} bytes where the manifest says {shard['bytes']}; {again}")
        if hashed and hashlib.sha256(store.read(path)).hexdigest() != shard["sha256"]:
            raise InputError(f"shard {store.uri}/{path} is damaged: its sha256 is not that of the manifest; {again}")
