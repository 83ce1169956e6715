"""Odd and broken files of real test suites, and hundreds of files broken by ourselves: each one is accounted for."""

import collections
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mvgan.config import Ingest, Run
from mvgan.data.ingest import begin, describe, finish, ingest_group, plan_ingest
from mvgan.data.shards import ShardSet


REAL = pytest.mark.skipif("MVGAN_TEST_DATA" not in os.environ, reason="MVGAN_TEST_DATA is not set")


def ingest_here(videos: Path, out: Path, **ingest: Any) -> dict[str, Any]:
    plan = plan_ingest(str(videos), str(out), Run(resolution=16, ingest=Ingest(max_rejected=1.0, **ingest)))
    return begin(plan) or finish(plan, map(ingest_group, plan.groups))


def frames_up_to_damage(path: Path) -> int:
    """PyAV's own loop over the largest stream."""
    count = 0
    with av.open(str(path)) as container:
        stream = max(container.streams.video, key=lambda s: s.codec_context.width * s.codec_context.height)
        try:
            for _ in container.decode(stream):
                count += 1
        except av.FFmpegError:
            return count
    return count


@REAL
def test_all_odd_files_are_accounted_for(tmp_path: Path) -> None:
    """Reference: expected.json, which counts frames of the first stream of each; of two files we read another, larger one."""
    odd = Path(os.environ["MVGAN_TEST_DATA"], "odd")
    known = json.loads((odd / "expected.json").read_text())["files"]
    manifest = ingest_here(odd, tmp_path / "out")
    taken = {video["source"]: video for video in manifest["videos"]}
    rejected = {item["source"]: item for item in manifest["rejected"]}
    assert len(known) == 52 and taken.keys() | rejected.keys() == known.keys() and not taken.keys() & rejected.keys()
    kinds = collections.Counter(item["kind"] for item in rejected.values())
    assert len(taken) + kinds["minimum"] == 33 and kinds["undecodable"] == 19 and kinds.keys() == {"minimum", "undecodable"}
    for name, facts in known.items():
        decodes = facts["outcome"] in ("ok", "partial")
        if name in rejected:
            assert (rejected[name]["kind"] == "minimum") == decodes, (name, rejected[name])
            assert rejected[name]["reason"] and "\n" not in rejected[name]["reason"]
            if decodes:  # by a stated minimum, and truly below it
                assert facts["frames"] < 2 or min(facts["width"], facts["height"]) < 16, name
            continue
        assert decodes, name
        expected = facts["frames"] if facts["video_streams"] == 1 else frames_up_to_damage(odd / name)
        assert taken[name]["num_frames"] == expected, name
        assert ("damaged" in taken[name]) == (facts["outcome"] == "partial"), (name, taken[name])
    lines = describe(manifest, (4,))
    assert sum(line.startswith("damaged: ") for line in lines) == 3 and sum(line.startswith("rejected: ") for line in lines) == 25
    assert any("transparency is dropped" in note for note in taken["real/moviepy_transparent.webm"]["notes"])
    assert any(line.startswith("note: ") and line.endswith(" and 4 more: transparency is dropped") for line in lines), lines
    shards = ShardSet.open(str(tmp_path / "out"))
    assert all(shards.frames(video, 0).shape[1:] == (3, 16, 16) for video in range(len(shards)))


COUNT = 240
"""Mutated files of our own making."""


def seeds() -> dict[str, bytes]:
    """Small videos of several containers and coders."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 40, 3), dtype=np.uint8).repeat(5, 0)
    kinds = [
        ("mp4", "libx264", "yuv420p"), ("mov", "mpeg4", "yuv420p"), ("avi", "mpeg4", "yuv420p"), ("avi", "mjpeg", "yuvj420p"),
        ("matroska", "ffv1", "bgr0"), ("webm", "libvpx-vp9", "yuv420p"), ("gif", "gif", "rgb8"), ("mpeg", "mpeg1video", "yuv420p"),
        ("mpegts", "libx264", "yuv420p"), ("flv", "flv", "yuv420p"),
    ]  # fmt: skip
    made = {}
    for container, codec, pixels in kinds:
        file = io.BytesIO()
        with av.open(file, "w", format=container) as output:
            stream: Any = output.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
            stream.codec_context.thread_count = 1
            for image in frames:
                output.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pixels)))
            output.mux(stream.encode(None))
        made[f"{container}-{codec}"] = file.getvalue()
    return made


def mutated(rng: np.random.Generator, data: bytes, other: bytes) -> tuple[str, bytes]:
    """Flipped bits anywhere or in the head, a cut, a hole, a piece twice, or the head of another file."""
    kind = ("flip", "head", "cut", "hole", "twice", "splice")[rng.integers(6)]
    altered = bytearray(data)
    if kind in ("flip", "head"):
        within = len(data) if kind == "flip" else min(600, len(data))
        for at in rng.integers(0, within, rng.integers(1, 60)):
            altered[at] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del altered[int(rng.integers(1, len(data))) :]
    elif kind == "splice":
        size = int(rng.integers(8, 800))
        altered[:size] = other[:size]
    else:
        start = int(rng.integers(0, len(data)))
        end = min(len(data), start + int(rng.integers(1, 2000)))
        altered[start:end] = b"" if kind == "hole" else altered[start:end] * 2
    return kind, bytes(altered)


def check_mutants(folder: Path, out: Path, names: set[str]) -> collections.Counter[str]:
    start = time.monotonic()
    manifest = ingest_here(folder, out, max_seconds=300, max_pixels=1 << 22, memory_mb=700)
    taken, rejected = {video["source"]: video for video in manifest["videos"]}, {item["source"]: item for item in manifest["rejected"]}
    assert taken.keys() | rejected.keys() == names and not taken.keys() & rejected.keys()
    assert all(item["reason"] and "\n" not in item["reason"] for item in rejected.values())
    shards = ShardSet.open(str(out))
    for video, entry in enumerate(manifest["videos"]):
        assert sum(len(shards.frames(video, piece)) for piece in range(shards.num_pieces(video))) == entry["num_frames"]
    counts = collections.Counter(
        ["damaged" if "damaged" in video else "taken" for video in taken.values()] + [item["kind"] for item in rejected.values()]
    )
    print(f"{len(names)} mutated files in {time.monotonic() - start:.1f} s: {dict(counts)}")
    return counts


def test_mutated_files_are_accounted_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    sound = seeds()
    order = sorted(sound)
    suffix = {"matroska": "mkv", "mpeg": "mpg", "mpegts": "ts"}
    names = set()
    for number in range(COUNT):
        name = order[number % len(order)]
        kind, data = mutated(rng, sound[name], sound[order[int(rng.integers(len(order)))]])
        container = name.split("-")[0]
        file = tmp_path / "in" / f"{number:03d}-{kind}-{name}.{suffix.get(container, container)}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
        names.add(file.name)
    counts = check_mutants(tmp_path / "in", tmp_path / "out", names)
    assert len(names) == COUNT and min(counts[kind] for kind in ("taken", "damaged", "undecodable")) >= 10, counts


@REAL
def test_mutated_real_files_are_accounted_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    data = Path(os.environ["MVGAN_TEST_DATA"])
    chosen = [*sorted((data / "talker").iterdir())[:2], *sorted((data / "piano").iterdir())[:1]]
    chosen += [data / "odd" / "real" / name for name in ("imageio_realshort.mp4", "torchcodec_av1.mkv", "moviepy_transparent.webm")]
    names = set()
    (tmp_path / "in").mkdir()
    for number in range(24):
        path = chosen[number % len(chosen)]
        _, broken = mutated(rng, path.read_bytes(), chosen[int(rng.integers(len(chosen)))].read_bytes())
        names.add(f"{number:02d}{path.suffix}")
        (tmp_path / "in" / f"{number:02d}{path.suffix}").write_bytes(broken)
    check_mutants(tmp_path / "in", tmp_path / "out", names)
