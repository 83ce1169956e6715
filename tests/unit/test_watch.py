"""What is told of a run from its folder: figures by hand, and runs that are whole, at work, stopped, dead, absent, and on S3."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import jobs.watch
from jobs._cli import main
from mvgan.config import InputError
from mvgan.storage.holder import CLEANING, Holder, held
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import LocalStore, open_store
from mvgan.watch import Look, StageLook, lines, look, span, training_of


SLOWER = [10.0 * n for n in range(1, 11)] + [150.0, 200.0]
"""Seconds after which twelve records of 100 pairs each were made."""


def made_up() -> list[dict[str, float]]:
    """A history of 1,200 pairs, with an evaluation in it."""
    history = [
        {"images": 100 * n, "elapsed_s": elapsed_s, "data_wait_share": 0.5 if n < 3 else 0.05, "exposed_comm_s": 0.9}
        | {"missed_commits": {3: 1.0, 9: 2.0}.get(n, 0.0), "skipped_steps": 4.0 if n == 12 else 0.0}
        for n, elapsed_s in enumerate(SLOWER, 1)
    ]
    return [{"images": 0, "frechet": 20.0}, *history[:5], {"images": 500, "frechet": 9.0}, *history[5:], {"images": 1200, "frechet": 5.0}]


def test_figures_by_hand() -> None:
    """Over the last ten records 1,000 pairs took 180 s; 800 are left: 144 s; a step of 20 takes 3.6 s; 200 s at 18 $/h are 1 $."""
    training = training_of(made_up(), "pairs", ["a sign"])
    assert (training.images, training.elapsed_s, training.comm_s) == (1200, 200.0, pytest.approx(0.9))
    assert (training.per_s, training.data_wait) == (pytest.approx(1000 / 180), pytest.approx(0.05))
    stage = StageLook("pairs", "pairs", 2000, None, False, 20, training, 7.0, 1000, 90.0)
    assert stage.eta_s == pytest.approx(144)
    holder = Holder("pairs", "`pairs` on host h, pid 1, since then", False, 2.0, 5.0)
    assert list(lines(Look("s3://b/run", holder, (stage,), "pairs"), 18.0)) == [
        "s3://b/run: at work, by `pairs` on host h, pid 1, since then",
        "pairs: 1,200 of 2,000 pairs (60 %), 5.556 pairs/s, ETA 2 min, trained for 3 min; newest metrics 7 s ago",
        "  last commit: at 1,000 pairs, 90 s ago",
        "  waits: 5.0 % of a step for data; 0.9 s of a step of 3.6 s for other workers",
        "  ALARM: 3 commits were missed, newest in the record at 900 pairs",
        "  ALARM: 4 optimizer steps were left out, newest in the record at 1,200 pairs",
        "  ALARM: a sign",
        "cost: $1.00 for 3 min of training at $18 an hour; ingest, stage codes, starts, and steps that were repeated are not in it",
    ]


@pytest.mark.parametrize(
    ("behind", "lag", "told"),
    [
        ([3] * 10, 0.4, True),
        ([3, 1, 3, 3, 3, 3, 3, 3, 2, 3], 0.4, True),
        ([3, 1, 2, 3, 3, 3, 3, 3, 2, 3], 0.4, False),  # in seven of ten records alone
        ([3] * 9, 0.4, False),  # so few say little
        ([3] * 10, 0.19, False),  # under a tenth of a step
    ],
)
def test_a_worker_that_holds_the_others_up_is_named(behind: list[int], lag: float, told: bool) -> None:
    """A step of 20 pairs takes 2 s at 10 pairs a second."""
    history = [
        {"images": 100 * n, "elapsed_s": 10.0 * n, "workers": 4.0, "slowest_worker": float(worker)}
        | {"slowest_lag_s": lag if worker == 3 else 9.0}
        for n, worker in enumerate(behind, 1)
    ]
    stage = StageLook("pairs", "pairs", 2000, None, False, 20, training_of(history, "pairs"))
    said = [line for line in lines(Look("run", None, (stage,), "pairs")) if "worker" in line]
    words = (
        "  ALARM: the others wait 0.4 s of a step of 2 s for worker 3, in most of the last 10 records; where it runs is in logs/pairs-*.log"
    )
    assert said == ([words] if told else [])
    fewer = {**history[-1], "images": 1100, "elapsed_s": 110.0, "workers": 3.0}
    assert training_of([*history, fewer], "pairs").straggler is None, "another number of workers is numbered anew"


def test_a_first_record_and_none() -> None:
    """100 pairs in 10 s; nothing is made up where nothing is known."""
    first = training_of(made_up()[:2], "pairs")
    assert (first.images, first.per_s, first.alarms) == (100, 10.0, ())
    none = training_of(made_up()[:1], "pairs")
    assert (none.images, none.per_s, none.data_wait, none.comm_s) == (0, None, None, None)


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (9000, "2.5 h")])
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.fixture
def copied(tiny_run: RunFolder, tmp_path: Path) -> Path:
    """A finished run that may be changed."""
    return Path(shutil.copytree(tiny_run.uri, tmp_path / "run"))


def half_way(run: Path) -> None:
    """As the run was when stage 3 had made no commit yet, 8 of its 16 clips in 4 s."""
    for path in ("video/commits", "video/data"):
        shutil.rmtree(run / path)
    (run / "video/metrics.jsonl").write_text(json.dumps({"images": 8, "elapsed_s": 4.0, "skipped_steps": 1.0}) + "\n")


def test_a_finished_run_and_its_like_on_s3(copied: Path, s3: str) -> None:
    """Reference: the settings of the run, its metrics, and its files as another copied them to S3."""
    found = look(str(copied))
    assert found.complete and not found.at_work and found.goal == "video"
    assert [(each.name, each.end, each.complete) for each in found.stages] == [("pairs", 64, True), ("codes", 2, True), ("video", 16, True)]
    recorded = [json.loads(line) for line in (copied / "pairs/metrics.jsonl").read_text().splitlines()]
    assert found.stages[0].training.elapsed_s == max(record.get("elapsed_s", 0) for record in recorded)
    assert next(lines(found)) == f"{copied}: complete with stage video, by no driver that its folder knows"
    target = open_store(f"{s3}/run")
    for path in LocalStore(copied).list():
        target.write(path, (copied / path).read_bytes())
    there = look(target.uri)
    assert there.complete
    assert [(each.training, each.commit) for each in there.stages] == [(each.training, each.commit) for each in found.stages]
    assert all(0 <= (each.commit_age_s or 0) < 600 for each in there.stages)


def test_a_run_at_work_then_left_then_killed(copied: Path) -> None:
    half_way(copied)
    with held(LocalStore(copied), "pipeline"):
        found = look(str(copied))
        assert found.at_work and not found.complete
        said = list(lines(found))
    assert said[0].startswith(f"{copied}: at work, by `pipeline` on host ")
    assert "video: 8 of 16 clips (50 %), 2 clips/s, ETA 4 s, trained for 4 s; newest metrics " in "\n".join(said)
    assert "  last commit: none yet" in said and "  ALARM: 1 optimizer steps were left out, newest in the record at 8 clips" in said
    left = list(lines(look(str(copied))))
    assert left[0].startswith(f"{copied}: stopped before the end of stage video, by `pipeline`") and left[0].endswith("which has ended")
    assert not any("ETA" in line for line in left)
    (copied / "drivers/00001.end.json").unlink()
    for file in (copied / "drivers").iterdir():
        os.utime(file, (0, time.time() - 3600))
    assert "which has given no sign for 60 min" in next(lines(look(str(copied))))


def test_a_verb_of_one_stage_is_complete_with_it_and_a_pipeline_is_not(copied: Path) -> None:
    for stage in ("codes", "video"):
        shutil.rmtree(copied / stage)
    with held(LocalStore(copied), "pairs"):
        assert not look(str(copied)).complete, "its driver has still to export"
    assert look(str(copied)).complete
    with held(LocalStore(copied), "pipeline"):
        pass
    assert not look(str(copied)).complete and look(str(copied)).goal == "video"


def test_who_cleans_a_run_is_not_who_trains_it(copied: Path) -> None:
    """However often: a pipeline that has ended between two stages stays one."""
    for stage in ("codes", "video"):
        shutil.rmtree(copied / stage)
    with held(LocalStore(copied), "pipeline"):
        pass
    for _ in range(5):
        with held(LocalStore(copied), CLEANING):
            assert not look(str(copied)).at_work
        found = look(str(copied))
        assert not found.complete and found.goal == "video" and "by `pipeline`" in next(lines(found))
    assert len(list((copied / "drivers").glob("*.end.json"))) == 4, "what tells nothing is removed"
    with held(LocalStore(copied), "pairs"):
        pass
    assert look(str(copied)).complete and not (copied / "drivers/00001.json").exists()


def test_stage_1_of_another_run_is_told_and_costs_nothing_here(copied: Path, tmp_path: Path) -> None:
    trial = tmp_path / "sweep/trials/a"
    other = tmp_path / "sweep/pairs/b"
    shutil.copytree(copied, trial)
    shutil.copytree(copied, other)
    shutil.rmtree(trial / "pairs")
    (trial / "run.json").write_text(json.dumps(json.loads((trial / "run.json").read_text()) | {"stage_1_of": "../../pairs/b"}))
    (trial / "video/metrics.jsonl").write_text(json.dumps({"images": 16, "elapsed_s": 7200.0}) + "\n")
    (other / "pairs/metrics.jsonl").write_text(json.dumps({"images": 64, "elapsed_s": 3600.0}) + "\n")
    found = look(str(trial))
    assert found.complete and found.stages[0].elsewhere == str(other)
    assert [line for line in lines(found, 2.5) if line.startswith("cost: $5.00 for 2.0 h of training")]
    (tmp_path / "sweep/sweep.json").write_text("{}")
    with pytest.raises(InputError, match=rf"holds a sweep; watch one of its runs, as {trial}$"):
        look(str(tmp_path / "sweep"))


def test_videos_that_are_being_ingested(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with held(store, "pipeline"):
        assert list(lines(look(str(tmp_path))))[1] == "ingest: has not begun to encode"
        store.write("data/plan.json", json.dumps({"num_sources": 1240}).encode())
        for path in ("data/shards/00000.json", "data/shards/00000-000.parquet", "data/shards/00001.json"):
            store.write(path, b"")
        assert list(lines(look(str(tmp_path))))[1] == "ingest: 2 groups of videos are encoded, of 1,240 videos in all"
    with pytest.raises(InputError, match="holds no run"):
        look(str(tmp_path))


Watch = Callable[..., tuple[int, str, str]]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Watch:
    """The verb as it is called: exit status, what it printed, and its line of error."""

    def call(*flags: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["watch", *flags])
        try:
            main(jobs.watch.run, jobs.watch.Flags, "")
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, *capsys.readouterr()

    return call


def test_looking_again_until_the_run_has_ended(copied: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete: 0; stopped: 1; Ctrl-C: 130. One look is 0 whatever it shows. Nothing is written."""
    ended = Path(shutil.copytree(copied, copied.parent / "ended"))
    half_way(copied)
    slept: list[float] = []

    def finish(seconds: float) -> None:
        slept.append(seconds)
        holding.__exit__(None, None, None)
        for path in ("video/commits", "video/data"):
            shutil.copytree(ended / path, copied / path)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    holding = held(LocalStore(copied), "pipeline")
    holding.__enter__()
    monkeypatch.setattr("jobs.watch.time.sleep", interrupt)
    assert watch("--run", str(copied), "--every", "30")[0] == 130
    monkeypatch.setattr("jobs.watch.time.sleep", finish)
    status, out, err = watch("--run", str(copied), "--every", "30")
    assert (status, slept, err) == (0, [30.0], "")
    assert out.index(": at work, by") < out.index(": complete with stage video, by")
    half_way(ended)
    before = {path: path.stat().st_mtime_ns for path in copied.parent.rglob("*")}
    assert watch("--run", str(ended))[0] == 0
    status, _, err = watch("--run", str(ended), "--every", "30")
    assert (status, err.count("\n")) == (1, 1) and "stopped, by no driver that its folder knows" in err
    assert {path: path.stat().st_mtime_ns for path in copied.parent.rglob("*")} == before


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_driver_that_is_silent_for_a_moment_is_looked_at_again(
    comes_back: bool, copied: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After as long as a driver on another machine is watched for. One that beats again is gone on with: the next look is the next."""
    half_way(copied)
    beat, slept = copied / "drivers/00001.beat.json", list[float]()
    with held(LocalStore(copied), "pipeline"):
        pass
    (copied / "drivers/00001.end.json").unlink()

    def silent() -> None:
        for file in (copied / "drivers").iterdir():
            os.utime(file, (0, time.time() - 60))

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if comes_back and len(slept) == 1:
            beat.touch()
        else:
            silent()

    silent()
    monkeypatch.setattr("jobs.watch.time.sleep", sleep)
    status, out, err = watch("--run", str(copied), "--every", "2")
    assert status == 1 and "has given no sign for 60 s" in err and (": at work, by" in out) == comes_back
    assert slept == ([15.0, 2.0, 15.0] if comes_back else [15.0])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--run is missing"),
        (("--run", ""), "--run is empty"),
        (("--run", "nowhere"), "holds no run (run.json is missing)"),
        (("--run", "http://host/run"), "give a local path or s3://bucket/prefix"),
        (("--run", "x", "--every", "0"), "--every is 0.0; give seconds above 0"),
        (("--run", "x", "--every", "nan"), "--every is nan; give seconds above 0"),
        (("--run", "x", "--dollars-per-hour", "-1"), "--dollars-per-hour is -1.0; give dollars from 0 on"),
    ],
)
def test_wrong_input_is_one_line(flags: tuple[str, ...], words: str, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = watch(*flags)
    assert (status, out, err.count("\n")) == (2, "", 1) and words in err
    assert not list(tmp_path.iterdir())
