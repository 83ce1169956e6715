"""What is refused before work starts, alike by a run and its dry run: no Ray, and nothing written, also not to what belongs to others."""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import jobs.codes
import jobs.ingest
import jobs.pairs
import jobs.pipeline
import jobs.video
from jobs._cli import main
from mvgan.config import InputError, Resources
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.synthetic import render_set
from mvgan.presets import smoke
from mvgan.storage.run import RunFolder, open_run


Line = Callable[..., str]


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Line:
    """The one line by which a verb refuses, which is that of its dry run too."""

    def refusal(verb: str, *flags: str) -> str:
        module = sys.modules[f"jobs.{verb}"]
        monkeypatch.setattr(module, "session", pytest.fail)
        monkeypatch.setattr("sys.argv", [verb, *flags])
        with pytest.raises(SystemExit) as stop:
            main(module.run, module.Flags, "")
        out, err = capsys.readouterr()
        assert (stop.value.code, out, err.count("\n")) == (2, "", 1), err
        return err

    def call(verb: str, *flags: str) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        said, dry = refusal(verb, *flags), refusal(verb, *flags, "--dry-run")
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        assert dry == said
        return said

    return call


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("clips"))
    render_set(folder, 3, 64, size=16)
    return folder


@pytest.fixture
def shards(clips: str, tmp_path: Path) -> str:
    """A finished set of the clips at 16 px."""
    plan = plan_ingest(clips, str(tmp_path / "shards"), smoke())
    begin(plan)
    finish(plan, map(ingest_group, plan.groups))
    return plan.out


@pytest.fixture
def copied(tiny_run: RunFolder, tmp_path: Path) -> str:
    return str(shutil.copytree(tiny_run.uri, tmp_path / "run"))


def test_another_config_of_an_existing_run(line: Line, copied: str, shards: str, tmp_path: Path) -> None:
    """Each verb with a setting of its own stage or an earlier one."""
    assert "has begun stage codes: num_codes was 2, now 1" in line("codes", "--run", copied, "--num-codes", "1")
    assert "has begun stage video: video.lr was" in line("video", "--run", copied, "--video.lr", "0.5")
    folder = open_run(str(tmp_path / "runs" / "smoke"), smoke(), shards)
    folder.commits("pairs").claim({})
    there = ("--preset", "smoke", "--data", shards, "--storage", str(tmp_path / "runs"), "--pairs.lr", "0.5")
    assert "has begun stage pairs: pairs.lr was 0.002, now 0.5" in line("pairs", *there)
    assert "has begun stage pairs: pairs.lr was 0.002, now 0.5" in line("pipeline", *there)


def test_a_stage_before_that_has_not_ended(line: Line, shards: str, tmp_path: Path) -> None:
    folder = open_run(str(tmp_path / "run"), smoke(), shards)
    assert "has not finished stage pairs" in line("codes", "--run", folder.uri)
    assert "has not finished stage codes" in line("video", "--run", folder.uri)


@pytest.mark.parametrize("verb", ["pairs", "pipeline"])
def test_a_file_in_place_of_the_storage(verb: str, line: Line, shards: str, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no folder")
    said = line(verb, "--preset", "smoke", "--data", shards, "--storage", str(tmp_path / "clip.mp4"))
    assert "clip.mp4" in said and "Not a directory" in said


@pytest.mark.parametrize("state", ["finished", "begun", "foreign"])
def test_a_shard_set_of_others(state: str, line: Line, clips: str, shards: str, tmp_path: Path) -> None:
    """Other settings or other sources, whether that set is finished or not; it gets no `drivers/` either."""
    out = tmp_path / "runs" / "smoke" / "data"
    shutil.copytree(shards, out)
    if state != "finished":
        (out / "manifest.json").unlink()
    if state == "foreign":
        (out / "plan.json").unlink()
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    shutil.copy(Path(clips, "face_0001.mp4"), fewer)
    ingest = ("ingest", "--preset", "smoke", "--out", str(out))
    pipeline = ("pipeline", "--preset", "smoke", "--storage", str(tmp_path / "runs"), "--name", "smoke")
    for verb in (ingest, pipeline):
        settings, sources = line(*verb, "--videos", clips, "--ingest.qp", "20"), line(*verb, "--videos", str(fewer))
        if state == "foreign":
            assert "unknown origin" in settings and "unknown origin" in sources
        else:
            assert "holds shards made with qp 14 (now 20)" in settings
            assert "holds shards of other videos" in sources and "(3 there, 1 now)" in sources


@pytest.mark.parametrize("source", ["none", "data"])
def test_a_list_without_videos(source: str, line: Line, shards: str, tmp_path: Path) -> None:
    (tmp_path / "split.txt").write_text("face_0001\n")
    given = ("--data", shards) if source == "data" else ()
    there = ("--preset", "smoke", "--storage", str(tmp_path / "runs"), "--list", str(tmp_path / "split.txt"))
    assert "--list selects a split of --videos, which is not given" in line("pipeline", *there, *given)


def test_videos_that_were_forgotten(line: Line, clips: str, tmp_path: Path) -> None:
    """Of a run on videos of one's own: synthetic ones must not be rendered into it."""
    storage = str(tmp_path / "runs")
    plan = plan_ingest(clips, f"{storage}/mine/data", smoke())
    begin(plan)
    said = line("pipeline", "--preset", "smoke", "--storage", storage, "--name", "mine")
    assert "mine has data of other videos than the synthetic ones; give its --videos again, or another --name" in said


def test_synthetic_videos_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tilde that no shell has expanded, as in --storage=~/runs."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jobs._source.render_set", lambda folder, *numbers: asked.append(folder))
    asked: list[str] = []
    place = jobs.pipeline.Place("~/runs")
    with pytest.raises(InputError, match="does not exist or holds no file"):
        jobs.pipeline.run(jobs.pipeline.Flags(preset="smoke", settings=smoke(), place=place))
    assert asked == [str(tmp_path / "home/runs/smoke/videos")]


def test_synthetic_videos_on_s3(line: Line) -> None:
    assert "local" in line("pipeline", "--preset", "smoke", "--storage", "s3://bucket/runs")


def test_a_cluster_without_room_is_told_before_ingest(clips: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--gpu where there is none: not after hours of ingest, and the shard set is not even begun."""
    asked = []

    @contextlib.contextmanager
    def session(resources: Resources) -> Iterator[None]:
        yield

    def no_room(resources: Resources) -> None:
        asked.append(resources)
        raise InputError("1 workers take a CPU and a GPU each; the cluster has 4 CPUs and 0 GPUs")

    monkeypatch.setattr("jobs.pipeline.session", session)
    monkeypatch.setattr("jobs.pipeline.check_cluster", no_room)
    monkeypatch.setattr("jobs._source.ingest", pytest.fail)
    flags = jobs.pipeline.Flags(
        preset="smoke",
        settings=smoke(),
        resources=Resources(gpu=True),
        source=jobs.pipeline.Source(videos=clips),
        place=jobs.pipeline.Place(str(tmp_path)),
    )
    with pytest.raises(InputError, match="a CPU and a GPU"):
        jobs.pipeline.run(flags)
    assert asked == [Resources(gpu=True)] and not list(tmp_path.rglob("data"))
