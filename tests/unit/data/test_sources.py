"""What ingest finds below a folder or an S3 prefix, and what it leaves."""

import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import jobs.ingest
from mvgan.config import InputError, Run
from mvgan.data.ingest import Plan, begin, finish, ingest_group, plan_ingest
from mvgan.data.shards import ShardSet
from mvgan.data.sources import list_sources
from mvgan.data.synthetic import render_set
from mvgan.distributed.ingest import ingest
from mvgan.storage.run import open_run
from mvgan.storage.uri import open_store


RUN = Run(resolution=16)


def put(uri: str, *paths: str, data: bytes = b"0") -> None:
    for path in paths:
        open_store(uri).write(path, data)


def paths(uri: str, fps: float | None = None) -> list[str]:
    return [source.path for source in list_sources(uri, fps).sources]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, or a prefix of a bucket, to put videos into."""
    return str(tmp_path / "clips") if request.param == "local" else f"{request.getfixturevalue('s3')}/{tmp_path.name}"


def test_ids_are_unique_and_lists_select(tmp_path: Path) -> None:
    for name in ("x/v2.mp4", "x/v10.mp4", "x/v2.avi", "y/v10.mov", ".hidden/v.mp4", "x/._v2.mp4", "notes.txt", "x/thumb1.jpg"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0")
    uri, names = str(tmp_path / "in"), tmp_path / "split.txt"
    assert [source.id for source in list_sources(uri, None).sources] == ["x/v2.avi", "x/v2.mp4", "x/v10", "y/v10"]
    names.write_text("# test split\ny/v10.mov 3\nx/v10\n\nv2.avi\n")
    assert [source.path for source in list_sources(uri, None, str(names)).sources] == ["x/v2.avi", "x/v10.mp4", "y/v10.mov"]
    for text, message in (("x/v11\n", "'x/v11', which is not among the 4"), ("v10\n", "fits 2 videos"), ("#\n", "names no video")):
        names.write_text(text)
        with pytest.raises(InputError, match=message):
            list_sources(uri, None, str(names))
    with pytest.raises(InputError, match="no list file"):
        list_sources(uri, None, str(tmp_path / "missing.txt"))


def test_runs_and_shard_sets_are_left_out(place: str) -> None:
    """What a start writes below --videos: the second start must find the sources of the first."""
    put(place, "a.mp4", "b/c.mov")
    before = list_sources(place, None)
    assert before.notes == ()
    open_run(f"{place}/runs/demo", RUN, f"{place}/runs/demo/data")
    put(f"{place}/runs/demo", "videos/face_0000.mp4", "samples/pairs-000000000.png", "samples/pairs-000004000.png")
    begin(plan_ingest(place, f"{place}/runs/demo/data", RUN))
    begin(plan_ingest(place, f"{place}/shards", RUN))
    put(f"{place}/shards", "shards/left.mp4")
    after = list_sources(place, None)
    assert after.sources == before.sources
    assert after.notes == ("left out, as they are runs or shard sets: runs/demo, shards",)
    assert paths(f"{place}/runs/demo/videos") == ["face_0000.mp4"], "whoever names it is given it"


def test_a_set_without_its_plan_is_told_by_its_manifest(tmp_path: Path) -> None:
    render_set(str(tmp_path / "in"), 2, 8, size=16)
    plan = plan_ingest(str(tmp_path / "in"), str(tmp_path / "in" / "data"), RUN)
    begin(plan)
    finish(plan, [ingest_group(group) for group in plan.groups])
    (tmp_path / "in" / "data" / "plan.json").unlink()
    put(str(tmp_path / "in" / "data"), "film.mp4")
    assert paths(str(tmp_path / "in")) == ["face_0000.mp4", "face_0001.mp4"]


def test_records_of_others_leave_nothing_out(tmp_path: Path) -> None:
    """A web app's manifest, a robot's plan, a file that is no JSON."""
    put(str(tmp_path), "web/film.mp4", "robot/film.mp4", "cut/film.mp4")
    put(str(tmp_path), "web/manifest.json", data=json.dumps({"name": "app", "shards": 3}).encode())
    put(str(tmp_path), "robot/plan.json", data=b"[1, 2]")
    put(str(tmp_path), "cut/run.json", data=b"\xff{")
    assert paths(str(tmp_path)) == ["cut/film.mp4", "robot/film.mp4", "web/film.mp4"]


def test_sets_in_the_root_itself_and_only_sets_below_it(tmp_path: Path) -> None:
    """--videos and --out may be one folder; where all that is there was made here, the error says so."""
    put(str(tmp_path / "same"), "film.mp4")
    for _ in range(2):
        assert begin(plan_ingest(str(tmp_path / "same"), str(tmp_path / "same"), RUN)) is None
    open_run(str(tmp_path / "runs" / "demo"), RUN, "data")
    put(str(tmp_path / "runs"), "demo/videos/face_0000.mp4", "notes.txt")
    with pytest.raises(
        InputError, match=r"no video; left out, as they are runs or shard sets: demo; 1 file passed over: \.txt 1; expected"
    ):
        list_sources(str(tmp_path / "runs"), None)


def test_pictures_beside_videos_are_passed_over(tmp_path: Path) -> None:
    put(str(tmp_path), "film.mp4", "film-1.jpg", "film-2.JPG", "notes.txt", "more/frame1.png", "more/frame2.png", "README")
    with pytest.raises(InputError, match=f"^{tmp_path}/more is a folder of numbered frames"):
        list_sources(str(tmp_path), None)
    listing = list_sources(str(tmp_path), 25)
    assert [source.path for source in listing.sources] == ["film.mp4", "more"]
    assert listing.notes == ("4 files passed over: .jpg 2, .txt 1, without suffix 1",)


@pytest.mark.parametrize(
    ("suffixes", "container", "codec"),
    [((".h264", ".264"), "h264", "libx264"), ((".hevc", ".265"), "hevc", "libx265"), ((".qt",), "mov", "libx264")],
)
def test_raw_streams_and_old_names_are_ingested(suffixes: tuple[str, ...], container: str, codec: str, tmp_path: Path) -> None:
    """Brightness tells the frame: all come, in the order in which they are shown, also where B-frames lie otherwise in the file."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=25, options={"x265-params": "log-level=none"} if codec == "libx265" else {})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(24):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 + 8 * number, np.uint8), "rgb24")))
        output.mux(stream.encode(None))
    put(str(tmp_path / "in"), *(f"film{suffix}" for suffix in suffixes), data=file.getvalue())
    plan = plan_ingest(str(tmp_path / "in"), str(tmp_path / "out"), RUN)
    begin(plan)
    manifest = finish(plan, [ingest_group(group) for group in plan.groups])
    assert [(video["num_frames"], video["fps"]) for video in manifest["videos"]] == [(24, 25.0)] * len(suffixes)
    shards = ShardSet.open(str(tmp_path / "out"))
    for video in range(len(suffixes)):
        shown = np.concatenate([shards.frames(video, piece) for piece in range(2)])
        assert np.abs(shown.mean((1, 2, 3)) - 40 - 8 * np.arange(24)).max() < 3


def test_frames_in_the_root_are_named_by_a_path_that_exists(tmp_path: Path) -> None:
    thumbs = tmp_path / "thumbs"
    put(str(thumbs), "thumb1.jpg", "thumb2.jpg")
    with pytest.raises(InputError, match=f"^{thumbs} is a folder of numbered frames"):
        list_sources(str(thumbs), None)
    assert paths(str(thumbs), 25) == ["thumbs"]


def test_a_second_start_finds_the_plan_of_the_first(tmp_path: Path) -> None:
    """`cd clips; python -m jobs.pipeline --videos .` with its default storage: the run comes to lie below the videos."""
    render_set(str(tmp_path), 2, 8, size=16)
    out = f"{tmp_path}/runs/demo/data"

    def start() -> Plan:
        plan = plan_ingest(str(tmp_path), out, RUN)
        begin(plan) or finish(plan, [ingest_group(group) for group in plan.groups])
        return plan

    first = start()
    open_run(f"{tmp_path}/runs/demo", RUN, out)
    put(f"{tmp_path}/runs/demo", "samples/video-000000000.png", "samples/video-000000160.png")
    assert start().identity() == first.identity()


def test_what_was_not_taken_is_told_by_ingest_and_its_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render_set(str(tmp_path), 2, 8, size=16)
    plan = plan_ingest(str(tmp_path), f"{tmp_path}/out", RUN)
    begin(plan)
    finish(plan, [ingest_group(group) for group in plan.groups])
    (tmp_path / "film.ivf").write_bytes(b"0")
    line = "ingest: left out, as they are runs or shard sets: out\ningest: 2 files passed over: .ivf 1, .json 1\n"
    jobs.ingest.run(jobs.ingest.Flags(videos=str(tmp_path), out=f"{tmp_path}/out", dry_run=True, settings=RUN))
    assert line in capsys.readouterr().out
    ingest(str(tmp_path), f"{tmp_path}/out", RUN)
    assert line in capsys.readouterr().out
