"""Ingest without Ray: sources, groups, manifest, resuming, and what users get wrong."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mvgan.data.ingest as ingest_module
import mvgan.data.sandbox as sandbox_module
from mvgan.config import Ingest, InputError, Run
from mvgan.data.ingest import Group, begin, describe, finish, group_sources, ingest_group, plan_ingest
from mvgan.data.shards import ShardSet
from mvgan.data.sources import Source
from mvgan.data.synthetic import render_set
from mvgan.media import encode_png, encode_video
from mvgan.storage.uri import LocalStore


REAL = pytest.mark.skipif("MVGAN_TEST_DATA" not in os.environ, reason="MVGAN_TEST_DATA is not set")
RUN = Run(resolution=16)


def ingest_here(videos: Path | str, out: Path | str, run: Run = RUN, list_file: str | None = None) -> dict[str, Any]:
    """All groups one after another, last group first: the order must not matter."""
    plan = plan_ingest(str(videos), str(out), run, list_file)
    return begin(plan) or finish(plan, [ingest_group(Group.from_json(group.to_json())) for group in reversed(plan.groups)])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    render_set(str(folder), num_videos=5, num_frames=20, size=32, seed=3)
    return folder


@REAL
def test_talker_clips(tmp_path: Path) -> None:
    """Reference: the data's README: 63 clips of exactly 75 frames at 25 frames a second, 360x288."""
    manifest = ingest_here(Path(os.environ["MVGAN_TEST_DATA"], "talker"), tmp_path / "out")
    assert (manifest["num_videos"], manifest["num_frames"], manifest["rejected"]) == (63, 4725, [])
    assert manifest["lengths"] == {"max": 75, "min": 75, "mean": 75.0, "variance": 0.0}
    assert {(video["width"], video["height"], video["fps"]) for video in manifest["videos"]} == {(360, 288, 25.0)}


def test_synthetic_videos(videos: Path, tmp_path: Path) -> None:
    manifest = ingest_here(videos, tmp_path / "out")
    assert (manifest["num_videos"], manifest["num_frames"], manifest["rejected"]) == (5, 100, [])
    assert [video["id"] for video in manifest["videos"]] == [f"face_{i:04d}" for i in range(5)]
    assert describe(manifest, (4,))[2] == "interval 4 is 160 ms"
    assert ShardSet.open(str(tmp_path / "out")).frames(4, 1).shape == (4, 3, 16, 16)


def test_the_same_again_does_nothing_and_other_settings_are_refused(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = ingest_here(videos, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert ingest_here(videos, out) == manifest
    with pytest.raises(InputError, match=r"resolution 16 \(now 32\)"):
        ingest_here(videos, out, Run(resolution=32))
    (tmp_path / "list").write_text("face_0001\n")
    with pytest.raises(InputError, match=r"5 there, 1 now"):
        ingest_here(videos, out, RUN, str(tmp_path / "list"))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_work_cut_off_goes_on_to_the_same_bytes(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvgan.data.ingest.MIN_GROUP_BYTES", 1)
    ingest_here(videos, tmp_path / "whole")
    plan = plan_ingest(str(videos), str(tmp_path / "cut"), RUN)
    assert len(plan.groups) == 5
    assert begin(plan) is None
    done = ingest_group(plan.groups[2])
    ingest_group(plan.groups[3])
    broken = tmp_path / "cut" / "shards" / "00003-000.parquet"
    broken.write_bytes(broken.read_bytes()[:-1])
    time = (tmp_path / "cut" / done["shards"][0]["path"]).stat().st_mtime_ns
    ingest_here(videos, tmp_path / "cut")
    assert (tmp_path / "cut" / done["shards"][0]["path"]).stat().st_mtime_ns == time
    whole, cut = files(tmp_path / "whole"), files(tmp_path / "cut")
    assert {n: d for n, d in whole.items() if n.endswith(("parquet", "manifest.json"))} == {
        n: d for n, d in cut.items() if n.endswith(("parquet", "manifest.json"))
    }


def test_undecodable_files_are_listed_and_all_failing_is_an_error(videos: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(videos, mixed)
    (mixed / "broken.mp4").write_bytes(b"no video at all" * 20)
    (mixed / "short.mp4").write_bytes(encode_video(np.zeros((1, 3, 16, 16), np.uint8), 25, ".mp4"))
    manifest = ingest_here(mixed, tmp_path / "out")
    assert manifest["num_videos"] == 5
    reasons = {item["source"]: item["reason"] for item in manifest["rejected"]}
    assert "cannot be opened" in reasons["broken.mp4"] and reasons["short.mp4"] == "has 1 frame; ingest.min_frames is 2"
    only = tmp_path / "only"
    only.mkdir()
    (only / "broken.mp4").write_bytes(b"no video at all" * 20)
    with pytest.raises(InputError, match=r"none of the 1 videos .*broken\.mp4 cannot be opened"):
        ingest_here(only, tmp_path / "none")
    assert not (tmp_path / "none" / "manifest.json").exists()


def test_too_many_rejected_end_ingest_as_soon_as_that_is_certain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 videos at most 3 may be bad: after the fourth, no further group is done."""
    monkeypatch.setattr("mvgan.data.ingest.MIN_GROUP_BYTES", 1)
    (tmp_path / "in").mkdir()
    for number in range(10):
        bad = number in (1, 2, 4, 5, 8)
        data = b"no video" * 200 if bad else encode_video(np.zeros((4, 3, 16, 16), np.uint8), 25, ".mp4")
        (tmp_path / "in" / f"{number}.mp4").write_bytes(data)
    run = dataclasses.replace(RUN, ingest=Ingest(max_rejected=0.3))
    plan = plan_ingest(str(tmp_path / "in"), str(tmp_path / "out"), run)
    assert len(plan.groups) == 10 and begin(plan) is None
    done: list[int] = []
    with pytest.raises(InputError, match=r"4 of 10 videos .* more than ingest\.max_rejected 0\.3: 1\.mp4 cannot be opened"):
        finish(plan, (ingest_group(group) for group in plan.groups if not done.append(group.index)))
    assert done == [0, 1, 2, 3, 4, 5]
    again = dataclasses.replace(RUN, ingest=Ingest(max_rejected=0.5))
    assert ingest_here(tmp_path / "in", tmp_path / "out", again)["num_videos"] == 5


def test_no_manifest_names_a_shard_that_has_gone(videos: Path, tmp_path: Path) -> None:
    plan = plan_ingest(str(videos), str(tmp_path), RUN)
    begin(plan)
    records = [ingest_group(group) for group in plan.groups]
    path = records[0]["shards"][0]["path"]
    (tmp_path / path).unlink()
    with pytest.raises(InputError, match=f"{path} is missing"):
        finish(plan, records)
    assert not (tmp_path / "manifest.json").exists()


def test_a_set_made_before_a_setting_came_is_complete_still(videos: Path, tmp_path: Path) -> None:
    manifest = ingest_here(videos, tmp_path)
    for later in ("min_frames", "min_size", "max_pixels", "max_frames", "max_mb", "max_seconds", "memory_mb", "resample_fps"):
        del manifest["settings"][later]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert ingest_here(videos, tmp_path) == manifest
    with pytest.raises(InputError, match=r"min_size 16 \(now 33\)"):
        ingest_here(videos, tmp_path, dataclasses.replace(RUN, ingest=Ingest(min_size=33)))


def test_a_source_too_large_is_not_even_opened(videos: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(videos, mixed)
    with (mixed / "large.mp4").open("wb") as file:
        file.truncate((1 << 20) + 1)
    manifest = ingest_here(mixed, tmp_path / "out", dataclasses.replace(RUN, ingest=Ingest(max_mb=1)))
    assert manifest["rejected"] == [{"source": "large.mp4", "kind": "limit", "reason": "is of 1048577 bytes; ingest.max_mb is 1"}]


def test_what_cannot_be_read_costs_that_file_only(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that went after it was listed, one of another user, a name that is not UTF-8, and (on S3) an empty part of a key."""
    folder = shutil.copytree(videos, tmp_path / "videos")
    for name in (b"caf\xe9.mp4", b"gone.mp4", b"private.mp4"):
        shutil.copy(folder / "face_0000.mp4", os.fsencode(folder) + b"/" + name)
    plan = plan_ingest(str(folder), str(tmp_path / "out"), RUN)
    (group,) = plan.groups
    odd = Source("/odd", "/odd.mp4", ("/odd.mp4",), 1, False)
    (folder / "gone.mp4").unlink()
    opened = LocalStore.open

    def refuse(store: LocalStore, path: str) -> Any:
        if path == "private.mp4":
            raise PermissionError(13, "Permission denied", path)  # the superuser, who may run this, is refused nothing
        return opened(store, path)

    monkeypatch.setattr(LocalStore, "open", refuse)
    begin(plan)
    record = ingest_group(Group.from_json(dataclasses.replace(group, sources=(*group.sources, odd)).to_json()))
    assert len(record["videos"]) == 5
    assert {(item["source"], item["kind"], item["reason"]) for item in record["rejected"]} == {
        ("caf\\xe9.mp4", "unreadable", "has a name that is not UTF-8; rename it"),
        ("gone.mp4", "unreadable", "has gone since it was listed"),
        ("private.mp4", "unreadable", "cannot be read: Permission denied"),
        ("/odd.mp4", "unreadable", "has a key with an empty or relative part; rename it"),
    }
    manifest = finish(plan, [record])
    print(*describe(manifest, (4,)), sep="\n")  # no byte that a terminal cannot take


def test_a_crash_of_the_decoder_costs_that_file_only(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is killed while it has one of five files in hand."""
    open_file, idle = ingest_module._open_file, sandbox_module._idle

    def killing(store: Any, path: str) -> Any:
        if path == "face_0002.mp4":
            children = [int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
            decoders = [c for c in children if b"mvgan.data.sandbox" in Path(f"/proc/{c}/cmdline").read_bytes()]
            os.kill(decoders[-1], signal.SIGSEGV)
        return open_file(store, path)

    for process in idle:
        process.close()
    monkeypatch.setattr(ingest_module, "_open_file", killing)
    manifest = ingest_here(videos, tmp_path)
    assert manifest["num_videos"] == 4
    assert manifest["rejected"] == [{"source": "face_0002.mp4", "kind": "undecodable", "reason": "crashes the decoder (SIGSEGV)"}]


KILLED = """
import os, signal, sys
from mvgan.config import Run
from mvgan.data import ingest
from mvgan.storage.uri import LocalStore

videos, out = sys.argv[1:]
ingest.MIN_GROUP_BYTES = 1


def work(folder):
    plan = ingest.plan_ingest(videos, folder, Run(resolution=16))
    ingest.begin(plan) or ingest.finish(plan, map(ingest.ingest_group, plan.groups))


def kill_at(number, after):
    count = 0

    def wrapped(call):
        def step(self, path, data):
            nonlocal count
            count += 1
            if count == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(self, path, data)
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return step

    LocalStore.write, LocalStore.create = wrapped(LocalStore.write), wrapped(LocalStore.create)


for number in range(1, 100):
    statuses = []
    for after in (False, True):
        child = os.fork()
        if not child:
            kill_at(number, after)
            work(f"{out}/{number}-{after}")
            os._exit(0)
        statuses.append(os.waitpid(child, 0)[1])
    if statuses == [0, 0]:
        break
    assert statuses == [signal.SIGKILL] * 2, statuses
print(number - 1)
"""


def test_killed_at_every_written_object_it_goes_on_to_the_same(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL before and after each object of an ingest of two videos: plan, two shards, two records, manifest."""
    source = tmp_path / "two"
    source.mkdir()
    for name in ("face_0000.mp4", "face_0001.mp4"):
        shutil.copy(videos / name, source / name)
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "killed")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == 0 and done.stdout.strip() == "6", done.stderr
    monkeypatch.setattr("mvgan.data.ingest.MIN_GROUP_BYTES", 1)
    ingest_here(source, tmp_path / "whole")
    expected = files(tmp_path / "whole")
    assert len(expected) == 6
    for number in range(1, 7):
        for after in (False, True):
            out = tmp_path / "killed" / f"{number}-{after}"
            finished = (out / "manifest.json").exists()
            assert finished == (number == 6 and after), "the manifest comes last"
            if finished:
                ShardSet.open(str(out))
            else:
                with pytest.raises(InputError, match="no finished shard set"):
                    ShardSet.open(str(out))
            recorded = [record.with_name(f"{record.stem}-000.parquet") for record in out.glob("shards/*.json")]
            kept = {path: path.stat().st_mtime_ns for path in recorded}
            ingest_here(source, out)
            left = {name: data for name, data in files(out).items() if not name.endswith(".tmp")}
            assert left == expected, (number, after)
            before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
            assert kept.items() <= before.items(), "a shard with its record is not made again"
            ingest_here(source, out)
            assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before, "running it again changes nothing"


def test_missing_and_empty_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        plan_ingest(str(tmp_path / "nowhere"), str(tmp_path / "out"), RUN)
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(InputError, match="1 files but no video"):
        plan_ingest(str(tmp_path), str(tmp_path / "out"), RUN)


def test_a_folder_with_foreign_shards_is_left_alone(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "00000-000.parquet").write_bytes(b"mine")
    with pytest.raises(InputError, match="unknown origin"):
        begin(plan_ingest(str(videos), str(tmp_path), RUN))
    assert files(tmp_path) == {"shards/00000-000.parquet": b"mine"}


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_plan_is_told(videos: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match=r"plan\.json.* is damaged.* delete"):
        begin(plan_ingest(str(videos), str(tmp_path), RUN))
    assert files(tmp_path) == {"plan.json": text.encode()}


def test_frame_folders_are_read_in_natural_order(tmp_path: Path) -> None:
    """Brightness tells the number: frame2 comes before frame10."""
    for clip, offset in (("a/clip1", 0), ("a/clip10", 100), ("a/clip2", 50)):
        folder = tmp_path / "frames" / clip
        folder.mkdir(parents=True)
        for number in range(1, 13):
            (folder / f"frame{number}.png").write_bytes(encode_png(np.full((3, 20, 24), offset + 4 * number, np.uint8)))
    with pytest.raises(InputError, match="--fps"):
        ingest_here(tmp_path / "frames", tmp_path / "out")
    manifest = ingest_here(tmp_path / "frames", tmp_path / "out", dataclasses.replace(RUN, ingest=Ingest(fps=12.5)))
    assert [(video["id"], video["num_frames"], video["fps"]) for video in manifest["videos"]] == [
        ("a/clip1", 12, 12.5), ("a/clip2", 12, 12.5), ("a/clip10", 12, 12.5),
    ]  # fmt: skip
    shards = ShardSet.open(str(tmp_path / "out"))
    for video, offset in enumerate((0, 50, 100)):
        assert np.abs(shards.frames(video, 0).mean((1, 2, 3)) - offset - 4 * np.arange(1, 13)).max() < 2


def test_groups_are_runs_of_about_equal_size() -> None:
    sources = [Source(str(i), str(i), (str(i),), (i % 7 + 1) << 20, False) for i in range(200)]
    groups = list(group_sources(sources, 64 << 20))
    assert [source for group in groups for source in group] == sources
    assert 25 <= len(groups) <= 40
    assert max(sum(source.num_bytes for source in group) for group in groups) <= (200 * 4 // 32 + 8) << 20


def test_mixed_rates_are_warned_of(tmp_path: Path) -> None:
    for rate in (20, 25):
        (tmp_path / f"{rate}.mp4").write_bytes(encode_video(np.zeros((4, 3, 16, 16), np.uint8), rate, ".mp4"))
    lines = describe(ingest_here(tmp_path, tmp_path / "out"), (4,))
    assert "interval 4 is 160 to 200 ms" in lines
    assert any(line.startswith("warning: frame rates are mixed, 20 to 25") for line in lines)
