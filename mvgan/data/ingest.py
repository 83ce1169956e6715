"""Videos to a shard set, in plain functions: plan, do one group of sources, finish. Who runs the groups is not told here.

The groups and every byte of their shards follow from the sources and the settings alone, whatever the order in which
groups are done. A finished group leaves a record beside its shards, so work that was cut off goes on.
"""

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np

from mvgan.config import Ingest, InputError, Run
from mvgan.data import decode
from mvgan.data.decode import OverLimit, Undecodable, Unreadable
from mvgan.data.sandbox import Sandbox, borrowed
from mvgan.data.shards import FORMAT_VERSION, MANIFEST, PLAN, Piece, ShardSet, check_files, pack_shard, read_manifest
from mvgan.data.sources import Source, list_sources
from mvgan.settings import differences, to_dict
from mvgan.storage.uri import LocalStore, Store, inner_path, open_store


MB = 1 << 20
CHUNK_BYTES = 16 * MB
"""Of a source that is copied from S3."""
MIN_GROUP_BYTES = MB
GROUPS = 32
"""Small sets are cut into about so many groups, to keep workers busy and little to repeat."""
SHOWN_REASONS = 3
"""Sources named in an error, or in a line about several."""


@dataclass(frozen=True)
class Group:
    """Sources that become shards together. Goes to a worker as JSON."""

    index: int
    videos: str
    out: str
    settings: dict[str, Any]
    sources: tuple[Source, ...]

    def to_json(self) -> str:
        """The group as text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Group":
        """The group that `to_json` wrote."""
        values = json.loads(text)
        values["sources"] = tuple(Source(**{**source, "files": tuple(source["files"])}) for source in values["sources"])
        return cls(**values)

    @property
    def num_bytes(self) -> int:
        """Size of the sources."""
        return sum(source.num_bytes for source in self.sources)

    @property
    def key(self) -> str:
        """What the shards of this group depend on, hashed."""
        return _hash([self.settings, [dataclasses.asdict(source) for source in self.sources]])


@dataclass(frozen=True)
class Plan:
    """What ingest would do."""

    videos: str
    out: str
    settings: dict[str, Any]
    max_rejected: float
    groups: tuple[Group, ...]
    sources_sha256: str
    num_sources: int
    num_bytes: int
    notes: tuple[str, ...]
    """Lines about what lies below `videos` and is not taken."""

    def identity(self) -> dict[str, Any]:
        """What tells this ingest from another into the same folder."""
        return {"settings": self.settings, "sources_sha256": self.sources_sha256, "num_sources": self.num_sources}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def shard_settings(run: Run) -> dict[str, Any]:
    """The settings that shape shards."""
    settings = {name: value for name, value in to_dict(run.ingest).items() if name != "max_rejected"}
    return {"resolution": run.resolution, **settings, "codec": dict(decode.CODEC)}


def plan_ingest(videos: str, out: str, run: Run, list_file: str | None = None) -> Plan:
    """List the sources below `videos` and cut them into groups; reads names and sizes only. Raises InputError."""
    settings = shard_settings(run)
    listing = list_sources(videos, run.ingest.fps, list_file)
    sources = listing.sources
    videos, out = open_store(videos).uri, open_store(out).uri
    groups = tuple(Group(index, videos, out, settings, part) for index, part in enumerate(group_sources(sources, run.ingest.shard_mb * MB)))
    digest = _hash([[source.id, source.path, source.num_bytes, len(source.files)] for source in sources])
    num_bytes = sum(source.num_bytes for source in sources)
    return Plan(videos, out, settings, run.ingest.max_rejected, groups, digest, len(sources), num_bytes, listing.notes)


def group_sources(sources: Iterable[Source], shard_bytes: int) -> Iterator[tuple[Source, ...]]:
    """Cut `sources`, in their order, into runs of about equal size in bytes, at most about `shard_bytes`."""
    sources = list(sources)
    total = sum(source.num_bytes for source in sources)
    limit = min(shard_bytes, max(MIN_GROUP_BYTES, total // GROUPS))
    part: list[Source] = []
    filled = 0
    for source in sources:
        part.append(source)
        filled += source.num_bytes
        if filled >= limit:
            yield tuple(part)
            part, filled = [], 0
    if part:
        yield tuple(part)


def check_out(plan: Plan) -> dict[str, Any] | None:
    """The manifest when all of `plan` is done in its output folder already, else None; writes nothing.

    Raises InputError when the folder belongs to other sources or settings.
    """
    store = open_store(plan.out)
    manifest = read_manifest(store)
    if manifest is not None:
        _check_identity(store, manifest, plan)
        return ShardSet.open(plan.out, verify=False).manifest
    if store.exists(PLAN):
        try:
            started = json.loads(store.read(PLAN))
        except ValueError as error:
            raise InputError(f"{store.uri}/{PLAN} is damaged; give another --out or delete the folder") from error
        _check_identity(store, started, plan)
    elif store.list("shards/"):
        raise InputError(f"{store.uri} holds shards of unknown origin; give another --out or delete them")
    return None


def begin(plan: Plan) -> dict[str, Any] | None:
    """Take the output folder for `plan`; the manifest when all is done there already.

    Raises InputError as `check_out` does: nothing is overwritten.
    """
    manifest, store = check_out(plan), open_store(plan.out)
    if manifest is None and not store.exists(PLAN):
        store.create(PLAN, json.dumps({"format_version": FORMAT_VERSION, **plan.identity()}, indent=1).encode())
        return check_out(plan)  # if another was first meanwhile, its plan is looked at like any that was there
    return manifest


def _check_identity(store: Store, found: dict[str, Any], plan: Plan) -> None:
    settings = found.get("settings") if isinstance(found, dict) else None
    if not isinstance(settings, dict):
        raise InputError(f"{store.uri} does not say by which settings it was made; its {PLAN} or {MANIFEST} is damaged: delete that folder")
    # A setting that came later counts as its default in what was made before.
    changed = differences({**to_dict(Ingest()), **settings, "max_rejected": None}, {**plan.settings, "max_rejected": None})
    advice = "give another --out or delete that folder"
    if changed:
        text = ", ".join(f"{name} {old} (now {new})" for name, (old, new) in changed.items())
        raise InputError(f"{store.uri} holds shards made with {text}; {advice}")
    if found.get("sources_sha256") != plan.sources_sha256:
        counts = f"{found.get('num_sources')} there, {plan.num_sources} now"
        raise InputError(f"{store.uri} holds shards of other videos than those of {plan.videos} ({counts}); {advice}")


def ingest_group(group: Group) -> dict[str, Any]:
    """Turn the sources of `group` into shards; returns and writes its record. Done work is found and not repeated.

    The record has `shards` (path, rows, bytes, sha256), `videos` (their `shard` counts within the group) and
    `rejected` (source, kind, reason).
    """
    store = open_store(group.out)
    path = f"shards/{group.index:05d}.json"
    record = _finished(store, path, group.key)
    if record is not None:
        return record
    writer = _Writer(store, group)
    videos, rejected = [], []
    with borrowed() as sandbox:
        for source in group.sources:
            try:
                video, pieces = encode_source(open_store(group.videos), source, group.settings, sandbox)
            except Undecodable as error:
                rejected.append({"source": printable(source.path), "kind": error.kind, "reason": str(error)})
                continue
            shard, first_row = writer.add(pieces)
            videos.append({**video, "shard": shard, "first_row": first_row})
    record = {"key": group.key, "group": group.index, "shards": writer.close(), "videos": videos, "rejected": rejected}
    store.write(path, json.dumps(record).encode())
    return record


def _finished(store: Store, path: str, key: str) -> dict[str, Any] | None:
    """The record of a group that is done, with its shards whole."""
    try:
        record = json.loads(store.read(path))
        if record["key"] != key or any(hashlib.sha256(store.read(s["path"])).hexdigest() != s["sha256"] for s in record["shards"]):
            return None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # not done, or damaged: done anew
    return dict(record)


class _Writer:
    """Fills the shards of a group one after another; a shard is closed when it has reached its size."""

    def __init__(self, store: Store, group: Group) -> None:
        self._store = store
        self._group = group
        self._limit = group.settings["shard_mb"] * MB
        self._pieces: list[Piece] = []
        self._bytes = 0
        self._shards: list[dict[str, Any]] = []

    def add(self, pieces: list[Piece]) -> tuple[int, int]:
        """Add a video; returns its shard, counted within the group, and first row there."""
        if self._bytes >= self._limit:
            self._flush()
        place = len(self._shards), len(self._pieces)
        self._pieces += pieces
        self._bytes += sum(len(piece.video) for piece in pieces)
        return place

    def _flush(self) -> None:
        path = f"shards/{self._group.index:05d}-{len(self._shards):03d}.parquet"
        data = pack_shard(self._pieces)
        self._store.write(path, data)
        self._shards.append({"path": path, "rows": len(self._pieces), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        self._pieces, self._bytes = [], 0

    def close(self) -> list[dict[str, Any]]:
        """Write what is left; returns all shards."""
        if self._pieces:
            self._flush()
        return self._shards


def encode_source(store: Store, source: Source, settings: dict[str, Any], sandbox: Sandbox) -> tuple[dict[str, Any], list[Piece]]:
    """The pieces of one source, and its manifest entry but for the place in a shard. Raises Undecodable."""
    _check_names(source)
    if source.num_bytes > settings["max_mb"] * MB:
        raise OverLimit(f"is of {source.num_bytes} bytes; ingest.max_mb is {settings['max_mb']}")
    facts, coded = sandbox.encode(source.files, source.is_folder, settings, lambda number: _open_file(store, source.files[number]))
    pieces: list[Piece] = []
    start = 0
    for data, length in coded:
        pieces.append(Piece(data, source.id, len(pieces), start, length, facts["fps"]))
        start += length
    return {"id": source.id, "source": source.path, **facts}, pieces


def printable(path: str) -> str:
    """`path` with the bytes that are no UTF-8 told by their numbers."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _check_names(source: Source) -> None:
    for path in source.files:
        if printable(path) != path:
            raise Unreadable("has a name that is not UTF-8; rename it")
        try:
            inner_path(path)
        except ValueError:
            raise Unreadable("has a key with an empty or relative part; rename it") from None


def _open_file(store: Store, path: str) -> BinaryIO:
    """The object as a file with a descriptor, which the decoding process can be given. Raises Unreadable."""
    try:
        if isinstance(store, LocalStore):
            return store.open(path)
        file = tempfile.TemporaryFile()  # noqa: SIM115 (who asked for it closes it)
        with store.open(path) as source:
            shutil.copyfileobj(source, file, CHUNK_BYTES)  # not whole: a source may be larger than memory
        file.seek(0)
        return cast(BinaryIO, file)
    except FileNotFoundError:
        raise Unreadable("has gone since it was listed") from None
    except PermissionError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None


def finish(plan: Plan, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Join the records of all groups, in any order, and write the manifest.

    Raises InputError when every source was rejected or, as soon as that is certain, a larger share than `max_rejected`;
    the shards stay, so that the same command with a higher share goes on from them. Also when a shard has gone meanwhile.
    """
    done: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    for record in records:
        done.append(record)
        rejected += record["rejected"]
        if len(rejected) < plan.num_sources:  # all of them is told in other words below
            _check_share(plan, rejected)
    manifest = build_manifest(plan, done)
    if not manifest["videos"]:
        raise InputError(f"none of the {plan.num_sources} videos of {plan.videos} can be used: {_shown(rejected)}")
    store = open_store(plan.out)
    check_files(store, manifest, verify=False)
    store.write(MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def _check_share(plan: Plan, rejected: list[dict[str, Any]]) -> None:
    if len(rejected) > plan.max_rejected * plan.num_sources:
        raise InputError(
            f"{len(rejected)} of {plan.num_sources} videos of {plan.videos} were rejected, "
            f"more than ingest.max_rejected {plan.max_rejected}: {_shown(rejected)}"
        )


def _shown(rejected: list[dict[str, Any]]) -> str:
    return "; ".join(f"{item['source']} {item['reason']}" for item in rejected[:SHOWN_REASONS])


def build_manifest(plan: Plan, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The manifest of a shard set from the records of its groups."""
    shards: list[dict[str, Any]] = []
    videos: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    for record in sorted(records, key=lambda record: int(record["group"])):
        videos += [{**video, "shard": video["shard"] + len(shards)} for video in record["videos"]]
        shards += record["shards"]
        rejected += record["rejected"]
    lengths = [video["num_frames"] for video in videos]
    return {
        "format_version": FORMAT_VERSION,
        "resolution": plan.settings["resolution"],
        "frames_per_piece": plan.settings["frames_per_piece"],
        "codec": {**plan.settings["codec"], "qp": plan.settings["qp"]},
        **plan.identity(),
        "shards": shards,
        "num_videos": len(videos),
        "num_frames": sum(lengths),
        "lengths": length_statistics(lengths),
        "videos": videos,
        "rejected": rejected,
    }


def length_statistics(lengths: list[int]) -> dict[str, float]:
    """Statistics of Table VII of the paper; the variance is that of the population."""
    if not lengths:
        return {"max": 0, "min": 0, "mean": 0.0, "variance": 0.0}
    return {"max": max(lengths), "min": min(lengths), "mean": float(np.mean(lengths)), "variance": float(np.var(lengths))}


def describe(manifest: dict[str, Any], interval: tuple[int, ...]) -> list[str]:
    """Lines for people: counts, lengths, what `interval` is in milliseconds, rates, and the sources that are not as they should be."""
    lengths, videos = manifest["lengths"], manifest["videos"]
    rates = sorted({video["fps"] for video in videos})
    size = sum(shard["bytes"] for shard in manifest["shards"]) / MB
    lines = [
        f"{manifest['num_videos']} videos, {manifest['num_frames']} frames at {manifest['resolution']} px, "
        f"{len(manifest['shards'])} shards, {size:.1f} MB, {len(manifest['rejected'])} rejected",
        f"length in frames: max {lengths['max']}, mean {lengths['mean']:.2f}, variance {lengths['variance']:.2f}, min {lengths['min']}",
    ]
    for k in interval:
        spans = sorted({round(1000 * k / rate) for rate in rates})
        lines.append(f"interval {k} is {spans[0]} ms" if len(spans) == 1 else f"interval {k} is {spans[0]} to {spans[-1]} ms")
    if len(rates) > 1:
        lines.append(
            f"warning: frame rates are mixed, {rates[0]:g} to {rates[-1]:g} a second, and an interval counts frames; "
            "--ingest.resample-fps makes them one"
        )
    return lines + list(_oddities(videos)) + [f"rejected: {item['source']} {item['reason']}" for item in manifest["rejected"]]


def _oddities(videos: list[dict[str, Any]]) -> Iterator[str]:
    for video in videos:
        if spread := video.get("variable_rate"):
            span = f"{spread['min_ms']:g} to {spread['max_ms']:g} ms a frame, {spread['distinct']} durations"
            yield f"variable frame rate: {video['source']} {span}"
    noted: dict[str, list[str]] = {}
    for video in videos:
        for note in video.get("notes", ()):
            noted.setdefault(note, []).append(video["source"])
    for note, sources in noted.items():
        more = f" and {len(sources) - SHOWN_REASONS} more" if len(sources) > SHOWN_REASONS else ""
        yield f"note: {', '.join(sources[:SHOWN_REASONS])}{more}: {note}"
    yield from (f"damaged: {video['source']} {video['damaged']}" for video in videos if "damaged" in video)
