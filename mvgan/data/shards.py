"""Shard sets: Parquet files of video pieces and the manifest that makes them one data set.

A row is a piece: consecutive frames of one video at training resolution, as compressed bytes. The pieces of a video
are consecutive rows of one shard. `manifest.json` is written last, so a set without one is unfinished.
"""

import hashlib
import io
import json
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
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
AGAIN = "delete the shard set and run ingest again"
"""What to do about a damaged one."""
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

KEYS: dict[str, Any] = {"resolution": int, "frames_per_piece": int, "num_videos": int, "num_frames": int, "lengths": dict}
ENTRY_KEYS: dict[str, dict[str, Any]] = {
    "shards": {"path": str, "rows": int, "bytes": int, "sha256": str},
    "videos": {"id": str, "source": str, "num_frames": int, "fps": int | float, "shard": int, "first_row": int},
    "rejected": {"source": str, "reason": str},
}
"""What is read of a manifest, with its kind; the second in each entry of its lists."""


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


def _close(files: OrderedDict[int, pq.ParquetFile]) -> None:
    while files:
        files.popitem()[1].close(force=True)


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
        weakref.finalize(self, _close, self._files)
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
            message = f"shard {self.uri}/{path} is damaged at row {row}: {error}; {AGAIN}"
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
    problem = next(_problems(manifest), None)
    if problem:
        raise InputError(f"{store.uri}/{MANIFEST} is damaged: {problem}; {AGAIN}")
    return dict(manifest)


def _problems(manifest: dict[str, Any]) -> Iterator[str]:
    """What keeps `manifest` from being read: keys that are missing or of another kind, then counts that do not agree.

    What follows the first is of no use.
    """
    yield from _wrong_keys(manifest, KEYS | dict.fromkeys(ENTRY_KEYS, list), "")
    for name, kinds in ENTRY_KEYS.items():
        for place, entry in enumerate(manifest[name]):
            yield from _wrong_keys(entry, kinds, f"{name}[{place}].")
    shards, videos = manifest["shards"], manifest["videos"]
    lengths = [video["num_frames"] for video in videos]
    if min(manifest["resolution"], manifest["frames_per_piece"], *lengths) < 1:
        yield "resolution, frames_per_piece or the num_frames of a video is below 1"
    for name, count in (("num_videos", len(videos)), ("num_frames", sum(lengths))):
        if manifest[name] != count:
            yield f"{name} is {manifest[name]}, its videos have {count}"
    rows = [0] * len(shards)
    for place, video in enumerate(videos):
        if not 0 <= video["shard"] < len(shards) or video["first_row"] != rows[video["shard"]]:
            yield f"videos[{place}] does not begin where the one before it ends"
        rows[video["shard"]] += len(_piece_lengths(manifest, video))
    for shard, count in zip(shards, rows, strict=True):
        if shard["rows"] != count:
            yield f"shard {shard['path']} has {shard['rows']} rows, its videos have {count} pieces"


def _wrong_keys(entry: Any, kinds: dict[str, Any], where: str) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield f"{where.rstrip('.')} is no object"
        return
    for key, kind in kinds.items():
        if not isinstance(entry.get(key), kind):
            yield f"{where}{key} is {'not as expected' if key in entry else 'missing'}"


def _piece_lengths(manifest: dict[str, Any], video: dict[str, Any]) -> list[int]:
    """Frames of each piece of a video: all alike but for the last."""
    full, rest = divmod(video["num_frames"], manifest["frames_per_piece"])
    return [manifest["frames_per_piece"]] * full + [rest] * (rest > 0)


def check_files(store: Store, manifest: dict[str, Any], verify: bool) -> None:
    """Raises InputError when a shard of `manifest` is missing, or of another size or, with `verify`, of other content."""
    sizes = store.list("shards/")
    hashed = verify and sum(shard["bytes"] for shard in manifest["shards"]) < HASHED_BYTES
    for place, shard in enumerate(manifest["shards"]):
        path = shard["path"]
        if path not in sizes:
            raise InputError(f"shard {store.uri}/{path} is missing; {AGAIN}")
        if sizes[path] != shard["bytes"]:
            raise InputError(f"shard {store.uri}/{path} is damaged: {sizes[path]} bytes where the manifest says {shard['bytes']}; {AGAIN}")
        if not hashed:
            continue
        data = store.read(path)
        if hashlib.sha256(data).hexdigest() != shard["sha256"]:
            raise InputError(f"shard {store.uri}/{path} is damaged: its sha256 is not that of the manifest; {AGAIN}")
        expected = [length for video in manifest["videos"] if video["shard"] == place for length in _piece_lengths(manifest, video)]
        if pq.read_table(io.BytesIO(data), columns=["num_frames"])["num_frames"].to_pylist() != expected:
            raise InputError(f"{store.uri}/{MANIFEST} is damaged: shard {path} has other numbers of frames than it says; {AGAIN}")
