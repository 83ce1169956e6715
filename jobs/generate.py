"""Videos from a finished run."""

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from jobs._board import ENDINGS, MAX_CELLS, Board, Kind, Video, kind_of, parse_grid, parse_numbers
from jobs._cli import Machines, main
from mvgan.batch import MANIFEST, Batch, Format, begin, exported_sha256, groups_of
from mvgan.config import InputError, Resources
from mvgan.distributed.generate import generate
from mvgan.distributed.resources import session
from mvgan.motion.factorize import DIRECTIONS, FRAMES
from mvgan.projection import latents_file, project, read_latents, read_picture
from mvgan.sample import Generator
from mvgan.storage.uri import place_of
from mvgan.validation import validate_resources


MAX_BATCH = 1_000_000
"""Most videos of one batch."""

SEEDS = "0-15"
"""Where none are given."""

VIDEO_FRAMES, PICTURE_FRAMES = 64, 9
"""Frames of a video, and of its row in a picture, where none are asked for."""

MAX_ALPHA, MAX_INTERPOLATE = 10_000, 1000
"""Steps along a code, and frames for every two steps."""

START_SEED = 0
"""Of the noise maps of videos with a given start."""

Content = tuple[int, Tensor | None]
"""A seed, and a latent w [w_dim] in place of its own."""


@dataclass(frozen=True)
class Flags(Machines):
    """Flags of this verb."""

    run: str = tyro.MISSING
    """Run folder or s3:// prefix: what a training command printed."""
    seeds: str | None = None
    """Which videos: 0-15 (as without it), or 1,5,9, or both kinds mixed. A seed gives the same video whichever others it is drawn with."""
    motion_seeds: str | None = None
    """Seeds of the motion, which is otherwise that of --seeds: a row per seed of --seeds (the content), a column per seed of the motion."""
    frames: int | None = None
    """Length of each video in frames; without it 64, or 9 in a .png. A longer video begins with the shorter one."""
    grid: Annotated[str | None, tyro.conf.arg(metavar="COLUMNSxROWS")] = None
    """Arrangement of the videos, such as 4x4; by default nearly square."""
    truncation: float = 0.7
    """1 keeps all variety of content, lower values draw it towards the mean, where pictures are better."""
    first: Literal["former", "latter"] | None = None
    """Which frame of the first pair opens the video; by default that of the run's training."""
    start: Annotated[str | None, tyro.conf.arg(metavar="PICTURE|FILE.safetensors")] = None
    """Content to start from in place of the seeds', which are then those of the motion. A PNG or JPEG picture: the latent whose frame is
    most like its centre square is searched for and kept beside --out (NAME.w.safetensors). Or such a file: a tensor w, [w_dim], or
    [n, w_dim] for n rows of videos. It is not truncated."""
    code: Annotated[str | None, tyro.conf.arg(metavar="backward:N|forward:N")] = None
    """Show what one motion code does, such as forward:3 (numbered from 1, as in report.html), instead of making videos: the frame that
    it edits (backward the former, forward the latter), from --alpha steps against the code to as many along it, and back; in a .png
    one way, a row per seed."""
    alpha: float | None = None
    """How far to go along --code, in the longest steps that stage 3 takes along it in one frame (residual times scale); without it as many
    as its clips have frames."""
    both: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With --code: former and latter frame side by side, of which one should stand still."""
    interpolate: int = 0
    """0 shows former and latter frames in turn, as in training. R of 1 or more shows one side alone, R frames for every two steps, with
    latents between them: smooth; 2 keeps the number of frames, 16 makes eight times as many."""
    hold: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """For long videos: keep latents where the mapping network puts them. Without it steps add up, and in the end pictures are no
    longer those of the training set."""
    fps: float | None = None
    """Frames a second; by default those at which motion has its natural speed."""
    format: Format | None = None
    """Make each video on its own, thousands of them, over Ray: mp4 (a file each) or parquet (rows with an MP4 each) in the folder or s3://
    prefix --out, with a manifest.json at the end. The same command again makes what is missing."""
    out: str = "video.mp4"
    """File that ends in .mp4, .webm or .gif (one that exists is replaced), or in .png (a row per video, its frames side by side), or a new
    or empty folder for PNG frames."""


def run(flags: Flags) -> None:
    """Write the videos and print where they are."""
    _check(flags)
    if flags.format is not None:
        _batch(flags, flags.format)
        return
    seeds = parse_numbers(flags.seeds or SEEDS, "--seeds")
    motions = None if flags.motion_seeds is None else parse_numbers(flags.motion_seeds, "--motion-seeds")
    kind = kind_of(flags.out)
    generator = Generator.load(flags.run, "cuda" if torch.cuda.is_available() else "cpu")
    code = None if flags.code is None else parse_code(flags.code, generator.run.num_codes)
    start = _start(flags.start, generator)
    if start is not None and code is None:
        motions = seeds
    rows = len(seeds) if start is None else len(start) if isinstance(start, Tensor) else 1
    board = _board(flags, kind, generator, rows, motions)
    board.check()
    if isinstance(start, np.ndarray):
        start = _projected(flags, generator, start, code)
    contents = [(seed, None) for seed in seeds] if start is None else [(START_SEED, w) for w in start]
    videos = _videos(flags, generator, contents, motions, board) if code is None else _sweeps(flags, generator, contents, code, board)
    board.write(flags.out, videos, flags.fps or generator.fps(flags.interpolate))
    print(flags.out)


def _batch(flags: Flags, kind: Format) -> None:
    """Make each video on its own, over Ray."""
    validate_resources(flags.resources)
    seeds = parse_numbers(flags.seeds or SEEDS, "--seeds", MAX_BATCH)
    motions = None if flags.motion_seeds is None else parse_numbers(flags.motion_seeds, "--motion-seeds", MAX_BATCH)
    if len(seeds) * len(motions or [0]) > MAX_BATCH:
        raise InputError(f"{len(seeds)} contents with {len(motions or [0])} motions each are more than {MAX_BATCH} videos; give fewer")
    if os.path.splitext(flags.out.rstrip("/"))[1].lower() in ENDINGS or os.path.isfile(flags.out):
        raise InputError(f"--out {flags.out} is a file; with --format give a folder, or an s3:// prefix, for the videos")
    generator = Generator.load(flags.run)  # refuses what cannot be used before work starts
    first, fps = flags.first or generator.run.video.first, flags.fps or generator.fps(flags.interpolate)
    batch = Batch(
        exported_sha256(flags.run), flags.frames or VIDEO_FRAMES, flags.truncation, first, fps, kind, flags.interpolate, flags.hold
    )
    groups = groups_of(seeds, motions)
    manifest = begin(flags.out, batch, groups)
    if manifest is None:
        with session(flags.resources):
            manifest = generate(flags.run, flags.out, batch, groups, flags.resources)
    print(f"generate: {manifest['num_videos']} videos in {len(manifest['objects'])} files, listed in {flags.out.rstrip('/')}/{MANIFEST}")
    print(flags.out)


def parse_code(text: str, num_codes: int) -> tuple[int, int]:
    """`forward:3` -> the side that the code edits and its number from 0: (1, 2). Raises InputError when there is no such code."""
    there = f"the codes of this generator are backward:1 to backward:{num_codes} and forward:1 to forward:{num_codes}"
    match = re.fullmatch(rf"({'|'.join(DIRECTIONS)}):(\d{{1,9}})", text.strip(), flags=re.ASCII)
    if not match:
        raise InputError(f"cannot read --code {text!r}; {there}")
    if not 1 <= int(match[2]) <= num_codes:
        raise InputError(f"there is no code {text}; {there}")
    return DIRECTIONS[match[1]], int(match[2]) - 1


def _check(flags: Flags) -> None:
    """Raise InputError for what the flags alone tell."""
    if flags.frames is not None and flags.frames < 1:
        raise InputError(f"--frames is {flags.frames}; a video has at least 1 frame")
    if not 0 <= flags.truncation <= 2:
        raise InputError(f"--truncation is {flags.truncation}; give a number from 0 (the mean alone) to 1 (all variety)")
    if not 0 <= flags.interpolate <= MAX_INTERPOLATE:
        raise InputError(
            f"--interpolate is {flags.interpolate}; give 0, or the frames for every two steps, such as 2, at most {MAX_INTERPOLATE}"
        )
    if flags.fps is not None and not 0.01 <= flags.fps <= 1000:
        raise InputError(f"--fps is {flags.fps}; give a number from 0.01 to 1000, or leave it away for natural speed")
    if flags.format is None and flags.resources != Resources():
        raise InputError("one video of all is made in this process, without Ray; leave the flags of resources away, or give --format")
    if flags.alpha is not None and not 0 < flags.alpha <= MAX_ALPHA:
        raise InputError(f"--alpha is {flags.alpha}; give a number of steps above 0 and at most {MAX_ALPHA}, which are gone both ways")
    if flags.code is None and (flags.alpha is not None or flags.both):
        raise InputError(
            f"{'--both' if flags.both else '--alpha'} is of a motion code, which is not given; name one by --code, such as forward:1"
        )
    if flags.code is not None and (flags.motion_seeds or flags.first or flags.interpolate or flags.hold):
        raise InputError("--code shows what one code does, without motion; leave --motion-seeds, --first, --interpolate and --hold away")
    if flags.format is not None and (flags.start or flags.code or flags.grid):
        raise InputError("--format makes each video on its own, from its seeds; leave --start, --code and --grid away")
    if flags.start is not None and flags.motion_seeds:
        raise InputError("with --start the content is given and --seeds are those of the motion; leave --motion-seeds away")
    if flags.start is not None and flags.code is not None and flags.seeds:
        raise InputError("with --start and --code nothing is left for seeds to decide; leave --seeds away")


def _start(uri: str | None, generator: Generator) -> Tensor | np.ndarray | None:
    """What to start from: latents [n, w_dim], a picture uint8 [3, h, w] or nothing."""
    if uri is None:
        return None
    if uri.lower().endswith(".safetensors"):
        return read_latents(uri, generator.run.network.w_dim)
    return read_picture(uri, generator.run.resolution)


def _board(flags: Flags, kind: Kind, generator: Generator, rows: int, motions: Sequence[int] | None) -> Board:
    """Where the videos stand: those of several contents and several motions in a table, others nearly square or as --grid says."""
    columns = 1 if motions is None else len(motions)
    if rows * columns > MAX_CELLS:
        raise InputError(f"{rows} contents with {columns} motions each are {rows * columns} videos; one grid takes at most {MAX_CELLS}")
    table = flags.motion_seeds is not None or min(rows, columns) > 1
    if flags.grid is not None and (table or kind == "picture"):
        reason = "a .png has a row per video" if kind == "picture" else "contents are rows here, and motions columns"
        raise InputError(f"--grid cannot be chosen: {reason}; leave it away")
    shape = (columns, rows) if table else parse_grid(flags.grid, rows * columns)
    num_frames = flags.frames or (PICTURE_FRAMES if kind == "picture" else VIDEO_FRAMES)
    size = generator.run.resolution
    return Board(kind, *shape, rows * columns, num_frames, size, size * (1 + flags.both))


def _projected(flags: Flags, generator: Generator, picture: np.ndarray, code: tuple[int, int] | None) -> Tensor:
    """The latent [1, w_dim] whose first shown frame is like `picture`, kept beside --out."""
    shown = flags.first or generator.run.video.first if code is None else FRAMES[code[0]]
    say = functools.partial(print, flush=True)
    found = project(generator, picture, START_SEED, "former" if shown == "former" else "latter", say=say)
    kept = os.path.splitext(flags.out.rstrip("/"))[0] + ".w.safetensors"
    store, name = place_of(kept)
    store.write(name, latents_file(found.w))
    print(
        f"projection: mean squared difference to {flags.start} (on [-1, 1]) {found.after:.4g}, at the mean {found.before:.4g}; see {kept}",
        flush=True,
    )
    return found.w[None]


def _videos(flags: Flags, generator: Generator, contents: Sequence[Content], motions: Sequence[int] | None, board: Board) -> list[Video]:
    """A video for each motion of each content; without motions that of the content's seed."""
    return [
        generator.stream(
            seed,
            board.num_frames,
            flags.truncation,
            motion_seed=motion,
            first=flags.first,
            w=w,
            interpolate=flags.interpolate,
            hold=flags.hold,
        )
        for seed, w in contents
        for motion in (motions or [seed])
    ]


def _sweeps(flags: Flags, generator: Generator, contents: Sequence[Content], code: tuple[int, int], board: Board) -> list[Video]:
    """A video along `code` for each content: from one end to the other and back, like a pendulum, so that it can be repeated; or a row."""
    most = flags.alpha or float(generator.run.video.num_frames)
    places = (
        np.linspace(-1, 1, board.num_frames)
        if board.kind == "picture"
        else -np.cos(2 * np.pi * np.arange(board.num_frames) / board.num_frames)
    )
    pairs = (generator.sweep(seed, code, (most * places).tolist(), flags.truncation, w=w) for seed, w in contents)
    return [(np.concatenate([*piece.swapaxes(0, 1)], -1) if flags.both else piece[:, code[0]] for piece in video) for video in pairs]


if __name__ == "__main__":
    main(run, Flags, "Make videos from a finished run, in a grid, the same for the same seeds; or show what a motion code does.")
