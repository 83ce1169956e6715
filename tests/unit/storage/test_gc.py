"""What gc removes, and above all what it does not: at every moment of a driver that was only thought dead."""

import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

import jobs.gc
import jobs.ingest
import jobs.pairs
import jobs.pipeline
from mvgan.config import InputError
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.shards import ShardSet
from mvgan.data.synthetic import render_set
from mvgan.presets import smoke
from mvgan.storage import s3 as s3_store
from mvgan.storage.commit import Commits, Superseded
from mvgan.storage.run import RunFolder, open_run
from mvgan.storage.uri import LocalStore, Store
from tests.commit_steps import Steps, StepStore


ROOT = Path(__file__).parents[3]
FILES = {"state.pt": b"state", "ema.pt": b"ema"}


def run_with_leftovers(uri: str) -> tuple[RunFolder, dict[str, int]]:
    """A run with valid commits of two stages, and what killed and superseded drivers may leave, with its sizes."""
    folder = open_run(uri, smoke(), "nowhere")
    for stage in ("pairs", "video"):
        commits = folder.commits(stage)
        epoch = commits.claim({})
        commits.write(100, epoch, FILES, {})
        commits.write(200, epoch, FILES, {})
    left = {
        "pairs/commits/000000000900-00001.json": 7,  # the record of a driver that came back: not inherited
        "pairs/data/000000000900-00001-0123abcd/state.pt": 30,
        "pairs/data/000000000200-00001-0123abcd/ema.pt": 20,  # a try whose record was another's
        "video/data/000000000300-00001-0123abcd/state.pt": 10,
    }
    commits = folder.commits("pairs")
    late = commits.write(900, 1, FILES, {})
    record = commits.store.read(f"commits/{late.name}.json")
    commits.store.delete(f"commits/{late.name}.json")
    commits.claim({})
    commits.store.write(f"commits/{late.name}.json", record)
    left["pairs/commits/000000000900-00001.json"] = len(record)
    left |= {f"pairs/{file['path']}": file["size"] for file in late.files.values()}
    for path, size in left.items():
        if not folder.store.exists(path):
            folder.store.write(path, bytes(size))
    return folder, left


def newest(folder: RunFolder) -> list[int]:
    return [commit.images for stage in ("pairs", "video") for commit in folder.commits(stage).records() if whole(folder, stage)]


def whole(folder: RunFolder, stage: str) -> bool:
    commits = folder.commits(stage)
    return all(commits.read(commit, file) == FILES[file] for commit in commits.records() for file in commit.files)


def objects(store: Store) -> dict[str, bytes]:
    return {path: store.read(path) for path in store.list()}


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a run may be."""
    return str(tmp_path / "run") if request.param == "local" else f"{request.getfixturevalue('s3')}/{request.node.name}"


def test_what_no_record_names_is_removed_and_told(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder, left = run_with_leftovers(uri)
    before = folder.store.list()
    jobs.gc.run(jobs.gc.Flags(run=uri, dry_run=True))
    assert folder.store.list() == before
    told = capsys.readouterr().out
    assert f"gc: would remove {len(left)} leftovers of {sum(left.values())} bytes from {folder.uri}" in told
    jobs.gc.run(jobs.gc.Flags(run=uri))
    said = dict(re.findall(r"removed (\d+) bytes: (\S+) \(of no commit\)", capsys.readouterr().out))
    assert len(re.findall(r"would remove \d+ bytes: (\S+)", told)) == len(left)
    assert {path: size for path, size in left.items() if folder.store.exists(path)} == {}
    assert sorted(map(int, said)) == sorted(set(left.values()))
    assert newest(folder) == [200, 100, 200, 100]
    changed = {path for path, data in folder.store.list().items() if before.get(path) != data}
    assert all(re.match(r"drivers/|(pairs|video)/epochs/", path) for path in changed), changed
    assert set(before) - set(folder.store.list()) == set(left)
    jobs.gc.run(jobs.gc.Flags(run=uri))
    assert "gc: removed 0 leftovers of 0 bytes" in capsys.readouterr().out
    commits = folder.commits("pairs")  # and the run goes on
    commits.write(400, commits.claim({}), FILES, {})
    assert newest(folder) == [400, 200, 100, 200, 100]


def test_what_stage_2_keeps_goes_only_when_it_is_complete(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Until then the same command takes it; a driver thought dead may yet leave some behind the commit."""
    folder = open_run(uri, smoke(), "nowhere")
    folder.store.write("codes/kept/00000-0123abcd.grams", bytes(55))
    commits = folder.commits("codes")
    epoch = commits.claim({})
    jobs.gc.run(jobs.gc.Flags(run=uri))
    assert "gc: removed 0 leftovers" in capsys.readouterr().out and folder.store.exists("codes/kept/00000-0123abcd.grams")
    commits.write(4, epoch, FILES, {"complete": True})
    jobs.gc.run(jobs.gc.Flags(run=uri, dry_run=True))
    assert "would remove 55 bytes: codes/kept/00000-0123abcd.grams (kept for stage 2, which is complete)" in capsys.readouterr().out
    assert folder.store.exists("codes/kept/00000-0123abcd.grams")
    jobs.gc.run(jobs.gc.Flags(run=uri))
    assert "gc: removed 1 leftovers of 55 bytes" in capsys.readouterr().out and not folder.store.exists("codes/kept/00000-0123abcd.grams")
    assert whole(folder, "codes") and folder.complete("codes") is not None


def test_temporary_files_of_a_killed_writer_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = open_run(str(tmp_path / "run"), smoke(), "nowhere")
    code = "import os, signal, sys; from mvgan.storage import local; local.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    code += "local.LocalStore(sys.argv[1]).write('pairs/data/x/state.pt', bytes(1234))"
    done = subprocess.run([sys.executable, "-c", code, folder.uri], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob("*.tmp"))) == 1
    (tmp_path / "run/.notes.tmp").write_text("the user's own")
    jobs.gc.run(jobs.gc.Flags(run=folder.uri))
    assert re.search(r"removed 1234 bytes: pairs/data/x/\.state\.pt\.[0-9a-f]{16}\.tmp \(temporary file\)", capsys.readouterr().out)
    assert not list(tmp_path.rglob(".state*"))
    assert (tmp_path / "run/.notes.tmp").exists()


def test_unfinished_uploads_are_aborted_when_old(s3: str, capsys: pytest.CaptureFixture[str]) -> None:
    client = s3_store.client()
    folder = open_run(f"{s3}/uploads/run", smoke(), "nowhere")
    keys = ["uploads/run/pairs/data/x/state.pt", "uploads/run/pairs/data/y/state.pt", "uploads/run-2/state.pt"]
    for key in keys:
        upload = client.create_multipart_upload(Bucket="bucket", Key=key)["UploadId"]
        for number in (1, 2):
            client.upload_part(Bucket="bucket", Key=key, UploadId=upload, PartNumber=number, Body=bytes(5 * 2**20))
    age_h = (datetime.now(UTC) - datetime(2010, 11, 10, tzinfo=UTC)).total_seconds() / 3600  # moto says so of every upload
    jobs.gc.run(jobs.gc.Flags(run=folder.uri, older_than_h=age_h + 48))
    assert "removed 0 leftovers" in capsys.readouterr().out  # they may be alive
    jobs.gc.run(jobs.gc.Flags(run=folder.uri, older_than_h=age_h - 48, dry_run=True))
    assert "would remove 2 leftovers of 20971520 bytes" in capsys.readouterr().out
    assert len(client.list_multipart_uploads(Bucket="bucket")["Uploads"]) == 3
    jobs.gc.run(jobs.gc.Flags(run=folder.uri))
    assert "removed 10485760 bytes: pairs/data/x/state.pt (unfinished upload)" in capsys.readouterr().out
    assert [item["Key"] for item in client.list_multipart_uploads(Bucket="bucket")["Uploads"]] == keys[2:]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("videos"))
    render_set(folder, num_videos=2, num_frames=64, size=16)
    return folder


def make_set(videos: str, out: Path) -> ShardSet:
    plan = plan_ingest(videos, str(out), smoke())
    begin(plan)
    finish(plan, [ingest_group(group) for group in plan.groups])
    return ShardSet.open(str(out))


@pytest.mark.parametrize("in_run", [False, True])
def test_shards_of_no_record_go(videos: str, tmp_path: Path, in_run: bool, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run/data"
    shards = make_set(videos, out)
    if in_run:
        open_run(str(tmp_path / "run"), smoke(), str(out))
    named = objects(LocalStore(out))
    flags = jobs.gc.Flags(run=str(tmp_path / "run")) if in_run else jobs.gc.Flags(data=str(out))
    (out / "shards/00009-000.parquet").write_bytes(bytes(77))
    jobs.gc.run(flags)
    assert f"removed 77 bytes: {'data/' * in_run}shards/00009-000.parquet (shard of no record)" in capsys.readouterr().out
    kept = {path: data for path, data in objects(LocalStore(out)).items() if not path.startswith("drivers/")}
    assert kept == named
    assert ShardSet.open(str(out)).frames(1, 0).shape == shards.frames(1, 0).shape
    (out / "manifest.json").unlink()  # an ingest that was killed at its end: the groups' records name the shards
    jobs.gc.run(flags)
    assert "removed 0 leftovers" in capsys.readouterr().out


def test_a_record_that_cannot_be_read_stops_the_removal(videos: str, tmp_path: Path) -> None:
    make_set(videos, tmp_path / "set")
    record = next((tmp_path / "set/shards").glob("*.json"))
    record.write_text("{}")
    (tmp_path / "set/shards/00009-000.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="is no record of shards"):
        jobs.gc.run(jobs.gc.Flags(data=str(tmp_path / "set")))
    assert (tmp_path / "set/shards/00009-000.parquet").exists()


def test_verbs_refuse_what_another_holds(videos: str, tmp_path: Path) -> None:
    """With a live process as the holder; nothing of Ray is started, and nothing written."""
    shards = make_set(videos, tmp_path / "set")
    runs = str(tmp_path / "runs")
    folder = open_run(f"{runs}/smoke", smoke(), shards.uri)
    code = "import sys, time; from contextlib import ExitStack; from mvgan.storage.holder import held\n"
    code += "from mvgan.storage.uri import open_store\nwith ExitStack() as stack:\n"
    code += "    for uri in sys.argv[1:]: stack.enter_context(held(open_store(uri), 'video'))\n    print(flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, folder.uri, shards.uri], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None and other.stdout.readline() == b"\n"
        place, settings = jobs.pairs.Place(runs, "smoke"), smoke()
        before = {path: data for path, data in objects(LocalStore(tmp_path)).items() if "beat" not in path}
        for call in (
            lambda: jobs.gc.run(jobs.gc.Flags(run=folder.uri)),
            lambda: jobs.gc.run(jobs.gc.Flags(run=folder.uri, dry_run=True)),
            lambda: jobs.gc.run(jobs.gc.Flags(data=shards.uri)),
            lambda: jobs.pairs.run(jobs.pairs.Flags(preset="smoke", settings=settings, data=shards.uri, place=place)),
            lambda: jobs.pipeline.run(
                jobs.pipeline.Flags(preset="smoke", settings=settings, source=jobs.pipeline.Source(data=shards.uri), place=place)
            ),
            lambda: jobs.ingest.run(jobs.ingest.Flags(preset="smoke", settings=settings, videos=videos, out=shards.uri)),
        ):
            with pytest.raises(InputError, match=rf"is held by `video` on host {os.uname().nodename}, pid {other.pid}, since "):
                call()
        assert {path: data for path, data in objects(LocalStore(tmp_path)).items() if "beat" not in path} == before
    finally:
        other.kill()
        other.wait()


def test_flags(tmp_path: Path) -> None:
    for flags, words in (
        (jobs.gc.Flags(), "give either --run"),
        (jobs.gc.Flags(run="a", data="b"), "give either --run"),
        (jobs.gc.Flags(run=str(tmp_path)), "holds no run"),
        (jobs.gc.Flags(data=str(tmp_path)), "holds no shard set"),
        (jobs.gc.Flags(run="a", older_than_h=-1), "give hours from 0 on"),
    ):
        with pytest.raises(InputError, match=words):
            jobs.gc.run(flags)
    assert os.listdir(tmp_path) == []


def test_a_driver_that_was_thought_dead_makes_no_commit_of_removed_data(tmp_path: Path) -> None:
    """gc at every operation of a commit: what is reported is whole, and what is not whole is not reported."""
    outcomes = set()
    for at in range(100):
        root = tmp_path / str(at)
        driver = Commits(LocalStore(root), "pairs")
        epoch = driver.claim({})
        driver.write(100, epoch, FILES, {})
        other = Commits(LocalStore(root), "pairs")
        steps = Steps(at, "before", partial(other.remove_uncommitted, {}))
        driver.store = StepStore(driver.store, steps)
        try:
            driver.write(200, epoch, FILES, {})
            expected = 200
        except Superseded:
            expected = 100
        outcomes.add(expected)
        found = Commits(LocalStore(root), "pairs").newest()
        assert found is not None and found.images == expected
        if len(steps.names) <= at:
            break
    assert at > 8 and outcomes == {100, 200}, "both outcomes must have come up"
