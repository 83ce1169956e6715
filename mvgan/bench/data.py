"""Benchmark `data`: pairs from shards against random access to the videos, and the plain loop against the stream of training.

All sides draw the same pairs. The plain loop runs once for each task of the stream, which takes all cores; the other sides
are one thread.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import mvgan.data.shards
from mvgan.bench.harness import Benchmark, Ratio, Side, require
from mvgan.config import InputError, Run
from mvgan.data.decode import keep_freed_memory
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.shards import MANIFEST, ShardSet
from mvgan.data.synthetic import FPS, draw_content, draw_motion, render_clip
from mvgan.data.windows import decode_window, pair_windows
from mvgan.media import encode_video
from mvgan.storage.uri import open_store


NUM_CLIPS, NUM_FRAMES = 16, 256
PAINTED = 32
"""Frames of a clip that differ; it shows them forward and backward in turn."""
OPEN_VIDEOS = 64
"""Videos that random access keeps open."""


Pairs = Callable[[str, Run], Iterator[int]]


def benchmark(videos: str, data: str, copy: str | None, run: Run, streamed: Pairs, tasks: int) -> Benchmark:
    """The comparison on local `videos`, the shards made of them at `data`, and their copy on S3, if any.

    streamed: gives the pairs of the stream of training, from `tasks` tasks at once; it comes from outside, as it needs a cluster.
    """
    sides = [
        Side("shards", from_shards, (data, run), tasks),
        Side("stream", streamed, (data, run)),
        Side("opencv", by_random_access, (videos, data, run)),
        Side("shards, uncached", from_shards, (data, run, False)),
    ]
    ratios = [Ratio("shards, uncached", "opencv"), Ratio("shards", "opencv"), Ratio("stream", "shards"), Ratio("stream", "shards", "clock")]
    if copy:
        sides.append(Side("S3, uncached", from_shards, (copy, run, False)))
        ratios += [Ratio("S3, uncached", "opencv"), Ratio("S3, uncached", "opencv", "clock")]
    return Benchmark("data", "pairs", tuple(sides), tuple(ratios), {"resolution": run.resolution})


def make_shards(videos: str, folder: str, run: Run) -> str:
    """The URI of shards of the local `videos` below `folder`, made once. Raises InputError for videos on S3."""
    if open_store(videos).uri.startswith("s3://"):
        raise InputError(f"{videos} is on S3, where OpenCV cannot read; give --videos a local folder")
    plan = plan_ingest(videos, f"{folder}/{Path(videos).name}-{run.resolution}", run)
    if begin(plan) is None:
        print(f"ingest: {plan.num_sources} videos to {plan.out}", flush=True)
        finish(plan, [ingest_group(group) for group in plan.groups])
    return plan.out


def render_clips(folder: Path, size: int) -> str:
    """Synthetic clips as MP4 with a key frame every 250 frames (the encoder's default); those that exist are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    turns = np.abs((np.arange(NUM_FRAMES) + PAINTED - 1) % (2 * PAINTED - 2) - (PAINTED - 1))
    for number in range(NUM_CLIPS):
        path = folder / f"face_{number:02d}.mp4"
        if not path.exists():
            print(f"render: {path}", flush=True)
            rng = np.random.default_rng(number)
            content, motion = draw_content(rng), draw_motion(rng, PAINTED)
            open_store(folder).write(path.name, encode_video(render_clip(content, motion, size)[turns], FPS, ".mp4"))
    return str(folder)


def copy_shards(data: str, to: str) -> str:
    """A copy of the shards at the URI `to`, the manifest last; what is there already is written again."""
    source, target = open_store(data), open_store(to)
    for path in sorted(source.list(), key=lambda path: path == MANIFEST):
        target.write(path, source.read(path))
    return target.uri


def from_shards(data: str, run: Run, cached: bool = True) -> Iterator[int]:
    """Decode windows one after another, in this process. Not `cached`: no row group is kept; each is read again from its file."""
    keep_freed_memory()  # as the tasks of the stream do
    if not cached:
        mvgan.data.shards.CACHED_BYTES = 0
    shards = ShardSet.open(data, verify=False)
    windows = pair_windows(shards, run)
    for index in itertools.count():
        decode_window(shards, windows[index])
        yield windows.items_per_window


def by_random_access(videos: str, data: str, run: Run) -> Iterator[int]:
    """The same pairs from the videos themselves by OpenCV, each by a seek; the videos stay open between pairs."""
    keep_freed_memory()
    cv2 = require("cv2", "opencv-python-headless")
    cv2.setNumThreads(1)
    shards = ShardSet.open(data, verify=False)
    windows = pair_windows(shards, run)
    paths = [str(Path(videos, video["source"])) for video in shards.manifest["videos"]]
    readers: OrderedDict[int, Any] = OrderedDict()
    for index in itertools.count():
        for item in windows[index]:
            if item.video not in readers:
                options = [cv2.CAP_PROP_N_THREADS, 1]
                readers[item.video] = cv2.VideoCapture(paths[item.video], cv2.CAP_FFMPEG, options)
            readers.move_to_end(item.video)
            read_pair(cv2, readers[item.video], item.frames, run.resolution)
            if len(readers) > OPEN_VIDEOS:
                readers.popitem(last=False)[1].release()
            yield 1


def read_pair(cv2: Any, reader: Any, frames: tuple[int, ...], resolution: int) -> np.ndarray:
    """Two frames of a video uint8 [2, 3, resolution, resolution], by one seek and decoding on from there."""
    first, last = min(frames), max(frames)
    reader.set(cv2.CAP_PROP_POS_FRAMES, first)
    images = []
    for frame in range(first, last + 1):
        if frame not in (first, last):
            reader.grab()
            continue
        found, image = reader.read()
        if not found:
            raise InputError(f"OpenCV finds no frame {frame} in a video that PyAV has read; give other --videos")
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        how = cv2.INTER_AREA if side > resolution else cv2.INTER_LANCZOS4
        image = cv2.resize(image[top : top + side, left : left + side], (resolution, resolution), interpolation=how)
        images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB).transpose(2, 0, 1))
    return np.stack(images if frames[0] == first else images[::-1])
