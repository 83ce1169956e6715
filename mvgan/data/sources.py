"""What ingest reads: videos, and folders of numbered frames, below a local folder or an S3 prefix."""

import collections
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from mvgan.config import InputError
from mvgan.data.shards import MANIFEST, PLAN
from mvgan.storage.run import RECORD
from mvgan.storage.uri import Store, open_store


VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .mpe .m1v .m2v .vob .wmv .asf .flv"
    " .f4v .gif .3gp .3g2 .ts .mts .m2ts .ogv .y4m .mxf .divx .qt .h264 .264 .hevc .265".split()
)
"""Names of what `mvgan.data.decode.CONTAINERS` opens."""
IMAGE_SUFFIXES = frozenset(".png .jpg .jpeg .jpe .bmp .tif .tiff .webp .ppm .pgm".split())

RECORDS = {RECORD: "config", PLAN: "sources_sha256", MANIFEST: "shards"}
"""Files by which a run's folder or a shard set is told, each with a key that another's file of that name has not; the small first."""
SHOWN_FOLDERS, SHOWN_KINDS = 3, 8
"""Folders, and kinds of files, named in a line about several."""


@dataclass(frozen=True)
class Source:
    """One video. `files` are paths below the root: the video file alone, or the frames of a folder in order."""

    id: str
    path: str
    files: tuple[str, ...]
    num_bytes: int
    is_folder: bool


@dataclass(frozen=True)
class Listing:
    """What there is to ingest, and in `notes` lines for people about what was not taken."""

    sources: tuple[Source, ...]
    notes: tuple[str, ...]


def natural(text: str) -> tuple[list[str | int], str]:
    """Sort key by which `frame2` comes before `frame10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", text)], text


def list_sources(uri: str, fps: float | None, list_file: str | None = None) -> Listing:
    """All sources below `uri`, searched recursively, in natural order of their ids; with `list_file` those it names.

    Folders with at least two pictures whose names end in a number, and with no video, are videos too, which need `fps`.
    Hidden files are passed over, and folders of runs and shard sets left out. Raises InputError when there is no such folder,
    nothing to read in it, a frame rate missing or a name of the list not found.
    """
    store = open_store(uri)
    sizes = {path: size for path, size in store.list().items() if not any(part.startswith(".") for part in path.split("/"))}
    if not sizes:
        raise InputError(f"{store.uri} does not exist or holds no file; give a folder or s3:// prefix with videos")
    ours = _own_folders(store, sizes)
    notes = _left_out(ours)
    foreign = {path: size for path, size in sizes.items() if not _below(path, ours)}
    videos = _videos(foreign)
    found = videos + _folders(foreign, PurePosixPath(store.uri).name, {str(PurePosixPath(video.path).parent) for video in videos})
    notes += _passed_over(foreign.keys() - {file for source in found for file in source.files})
    if not found:
        raise InputError(
            "; ".join([f"{store.uri} holds {len(sizes)} files but no video", *notes])
            + f"; expected names in {', '.join(sorted(VIDEO_SUFFIXES)[:6])} ... or folders of numbered frames"
        )
    chosen = _with_ids(found)
    if list_file is not None:
        chosen = select(chosen, read_list(list_file), list_file)
    folders = [source for source in chosen if source.is_folder]
    if folders and fps is None:
        where = "/".join([store.uri, *PurePosixPath(folders[0].files[0]).parts[:-1]])
        raise InputError(f"{where} is a folder of numbered frames, which have no frame rate; give one by --fps")
    return Listing(tuple(sorted(chosen, key=lambda source: natural(source.id))), tuple(notes))


def _own_folders(store: Store, sizes: dict[str, int]) -> list[str]:
    """The outermost folders below the root that are a run's or a shard set.

    What a command makes below its own --videos must not be taken in by the next one, which would find other sources than the
    first. The root itself is what was asked for, whatever lies in it.
    """
    found: list[str] = []
    for name, key in RECORDS.items():
        for path in sizes:
            folder = path.removesuffix(f"/{name}")
            if folder != path and not _below(folder, found) and _is_record(store, path, key):
                found.append(folder)
    return sorted(folder for folder in set(found) if not _below(folder.rpartition("/")[0], found))


def _is_record(store: Store, path: str, key: str) -> bool:
    try:
        record = json.loads(store.read(path))
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(record, dict) and "format_version" in record and key in record


def _below(path: str, folders: Sequence[str]) -> bool:
    return f"{path}/".startswith(tuple(f"{folder}/" for folder in folders))


def _left_out(folders: Sequence[str]) -> list[str]:
    more = f" and {len(folders) - SHOWN_FOLDERS} more" if len(folders) > SHOWN_FOLDERS else ""
    return [f"left out, as they are runs or shard sets: {', '.join(folders[:SHOWN_FOLDERS])}{more}"] if folders else []


def _passed_over(files: Collection[str]) -> list[str]:
    if not files:
        return []
    kinds = collections.Counter(PurePosixPath(file).suffix.lower() or "without suffix" for file in files)
    ordered = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    shown = [f"{kind} {count}" for kind, count in ordered[:SHOWN_KINDS]]
    shown += [f"others {sum(count for _, count in ordered[SHOWN_KINDS:])}"] if len(ordered) > SHOWN_KINDS else []
    return [f"{len(files)} file{'' if len(files) == 1 else 's'} passed over: {', '.join(shown)}"]


def _videos(sizes: dict[str, int]) -> list[Source]:
    videos = [path for path in sizes if PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES]
    return [Source("", path, (path,), sizes[path], False) for path in videos]


def _folders(sizes: dict[str, int], root: str, with_videos: set[str]) -> list[Source]:
    """Folders of numbered frames. Pictures in a folder `with_videos` are previews of these, or the like."""
    folders: dict[str, list[str]] = collections.defaultdict(list)
    for path in sizes:
        name = PurePosixPath(path)
        if name.suffix.lower() in IMAGE_SUFFIXES and name.stem[-1:].isdecimal():
            folders[str(name.parent)].append(path)
    return [
        Source("", root if folder == "." else folder, tuple(sorted(files, key=natural)), sum(sizes[file] for file in files), True)
        for folder, files in folders.items()
        if len(files) > 1 and folder not in with_videos
    ]


def _with_ids(sources: Sequence[Source]) -> list[Source]:
    """Id: the path without its suffix, but with it where that would name two."""
    ids = {source.path: source.path if source.is_folder else str(PurePosixPath(source.path).with_suffix("")) for source in sources}
    while clashes := [path for path, name in ids.items() if name != path and collections.Counter(ids.values())[name] > 1]:
        ids.update((path, path) for path in clashes)
    return [Source(ids[s.path], s.path, s.files, s.num_bytes, s.is_folder) for s in sources]


def read_list(list_file: str) -> list[str]:
    """The names in a list file, local or on S3: one a line, empty lines and those after a `#` left out."""
    folder, _, name = list_file.rpartition("/")
    if name in ("", ".", ".."):
        raise InputError(f"the list file {list_file} is a folder; give a text file with one video a line")
    try:
        lines = open_store(folder or ("/" if "/" in list_file else ".")).read(name).decode().splitlines()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"there is no list file {list_file}; give a text file with one video a line") from error
    except UnicodeDecodeError as error:
        raise InputError(f"list file {list_file} is no text; give one video a line") from error
    names = [line.strip() for line in lines]
    return [name for name in names if name and not name.startswith("#")]


def select(sources: Sequence[Source], names: Sequence[str], list_file: str) -> list[Source]:
    """The sources that `names` mean, each by path, path without suffix, file name or its stem.

    A class label after the name, as UCF101's lists have it, is passed over. Raises InputError for a name that
    fits none or several, and for an empty list.
    """
    exact, loose = _tables(sources)
    chosen: set[int] = set()
    for line in names:
        bare = re.sub(r"\s+\d+$", "", line)
        fitting = next((table[name] for name in (line, bare) for table in (exact, loose) if name in table), set())
        if not fitting:
            raise InputError(
                f"{list_file} names {line!r}, which is not among the {len(sources)} videos found; correct the list or --videos"
            )
        if len(fitting) > 1:
            raise InputError(f"{list_file} names {line!r}, which fits {len(fitting)} videos; give paths relative to --videos")
        chosen |= fitting
    if not chosen:
        raise InputError(f"{list_file} names no video; give one a line")
    return [source for index, source in enumerate(sources) if index in chosen]


def _tables(sources: Sequence[Source]) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """Which sources a name means: by path, with suffix or without, and by file name."""
    exact: dict[str, set[int]] = collections.defaultdict(set)
    loose: dict[str, set[int]] = collections.defaultdict(set)
    for index, source in enumerate(sources):
        path = PurePosixPath(source.path)
        for name in (source.path, source.id, str(path.with_suffix(""))):
            exact[name].add(index)
        for name in (path.name, path.stem):
            loose[name].add(index)
    return exact, loose
