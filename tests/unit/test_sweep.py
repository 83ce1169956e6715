"""Which trials a sweep has, what they share, and what is told of them: against counting by hand and readers outside this code."""

import csv
import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mvgan.config import InputError
from mvgan.storage.commit import _record_bytes
from mvgan.storage.gc import collect_run
from mvgan.storage.run import RECORD, RunFolder, open_run, read_run
from mvgan.storage.uri import seen_from
from mvgan.sweep import (
    Case,
    Sweep,
    check_sweep,
    described,
    distinct_generators,
    forget_grams,
    open_sweep,
    outcome,
    with_values,
    write_results,
)
from mvgan.train.codes import factorize
from mvgan.train.export import export_weights
from mvgan.train.kept import FOLDER, forget
from tests.unit.conftest import CPU, tiny_config


def sweep(data: str = "/data", cases: tuple[Case, ...] = (), **axes: tuple[Any, ...]) -> Sweep:
    return Sweep(tiny_config(), {path.replace("__", "."): values for path, values in axes.items()}, data, cases)


def test_trials_are_the_grid_and_share_generators() -> None:
    trials = sweep(interval=((2,), (3,), (2, 3)), num_codes=(1, 2), codes__method=("random", "generalized")).trials()
    grid = [(k, n, m) for k in ((2,), (3,), (2, 3)) for n in (1, 2) for m in ("random", "generalized")]
    assert [(t.run.interval, t.run.num_codes, t.run.codes.method) for t in trials] == grid
    assert [tuple(t.values.values()) for t in trials] == grid
    assert len({t.key for t in trials}) == 12 and len({t.pairs_key for t in trials}) == 3
    assert all((a.pairs_key == b.pairs_key) == (a.run.interval == b.run.interval) for a in trials for b in trials)
    assert [t.run.interval for t in distinct_generators(trials).values()] == [(2,), (3,), (2, 3)]


def test_whatever_shapes_stage_1_makes_another_generator() -> None:
    """By the stages that each setting shapes: those of stage 1 change both keys, later ones that of the trial alone."""
    (plain,) = sweep().trials()
    shaping = {"seed": 5, "pairs.lr": 1e-3, "network.noise": False, "interval": (2,), "max_skipped": 1}
    later = {"latents": 3, "num_codes": 1, "video.lr": 1e-3, "codes.epsilon": 0.5}
    for path, value in (shaping | later).items():
        (other,) = sweep(**{path.replace(".", "__"): (value,)}).trials()
        assert other.key != plain.key
        assert (other.pairs_key != plain.pairs_key) == (path in shaping)
    assert sweep("/other").trials()[0].pairs_key != plain.pairs_key


def test_cases_are_rows_of_an_ablation() -> None:
    cases = (Case("TVD", {"video.d_r": False}), Case("BVD", {"video.d_v": False}), Case("ours", {}))
    trials = sweep(cases=cases, seed=(0, 1)).trials()
    assert [(t.values["case"], t.run.video.d_v, t.run.video.d_r, t.run.seed) for t in trials] == [
        ("TVD", True, False, 0), ("TVD", True, False, 1), ("BVD", False, True, 0), ("BVD", False, True, 1), ("ours", True, True, 0),
        ("ours", True, True, 1),
    ]  # fmt: skip
    assert len({t.pairs_key for t in trials}) == 2
    assert described(trials[0].values) == "case TVD, seed 0"


def test_cases_of_the_same_settings_are_refused() -> None:
    cases = (Case("ours", {}), Case("k = 4", {"interval": [4]}))
    with pytest.raises(InputError, match="the cases ours and k = 4 come to the same settings"):
        sweep(cases=cases).trials()


def test_the_same_number_is_the_same_setting() -> None:
    (whole,), (decimal,) = (sweep(pairs__total_kimg=(value,)).trials() for value in (1, 1.0))
    assert (whole.key, whole.pairs_key) == (decimal.key, decimal.pairs_key)


def test_every_generator_can_be_read_again(tmp_path: Path) -> None:
    """Also where settings of later stages go with the other generators alone: 2 codes each way need a w of 4."""
    base = dataclasses.replace(tiny_config(), num_codes=16)
    folder = open_sweep(str(tmp_path / "s"), Sweep(base, {"network.w_dim": (4, 32), "num_codes": (1, 2)}, "/data"))
    for trial in distinct_generators(folder.sweep.trials()).values():
        assert read_run(folder.open_generator(trial).uri).run.network.w_dim == trial.run.network.w_dim


def test_single_frames_are_compared_where_stage_1_ends_it() -> None:
    cases = (Case("StyleGAN2", {"network.frames": 1}), Case("MotionStyleGAN", {"network.frames": 2}))
    generators = dataclasses.replace(sweep(cases=cases), last="pairs")
    assert [t.run.network.frames for t in distinct_generators(generators.trials()).values()] == [1, 2]
    (videos,) = sweep(cases=cases[1:]).trials()
    assert generators.trials()[1].pairs_key == videos.pairs_key  # what videos are made of is not trained again
    with pytest.raises(InputError, match=r"case StyleGAN2: network\.frames is 1: motion codes"):
        sweep(cases=cases).trials()
    unmeasured = with_values(tiny_config(), {"pairs.evaluations": 0})
    with pytest.raises(InputError, match=r"set pairs\.evaluations to at least 1"):
        dataclasses.replace(generators, base=unmeasured).trials()
    assert dataclasses.replace(sweep(), base=unmeasured).trials()


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"stride": (1, 2)}, "stride cannot be swept"),
        ({"resolution": (16, 32)}, "resolution cannot be swept"),
        ({"ingest__qp": (1, 2)}, "ingest.qp cannot be swept"),
        ({"video__num_frames": (4, 8)}, "video.num_frames cannot be swept"),
        ({"video__balance": ("frames", "videos")}, "video.balance cannot be swept"),
        ({"video__evaluations": (0, 4)}, "video.evaluations 0 measures nothing"),
        ({"pairs__mirror": (True, False)}, "pairs.mirror cannot be swept"),
        ({"num_codes": (2, 2)}, "num_codes is given a value twice: 2, 2"),
        ({"num_codes": (2, 400)}, "num_codes 400: num_codes 400 each way is more than the factorization can give"),
        ({"interval": ((0,), (2,))}, "interval 0: interval 0 is below 1"),
        ({"codes__method": ("generalized", "other")}, "codes.method"),
        ({"pairs__nothing": (1, 2)}, "unknown setting 'pairs.nothing'"),
    ],
)
def test_impossible_sweeps_are_told(axes: dict[str, tuple[Any, ...]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sweep(**axes).trials()


def test_a_sweep_may_grow_but_not_change(tmp_path: Path) -> None:
    uri = str(tmp_path / "sweep")
    open_sweep(uri, sweep(num_codes=(1, 2)))
    before = (tmp_path / "sweep" / "sweep.json").read_bytes()
    check_sweep(uri, sweep(num_codes=(1, 2, 3), interval=((2,), (4,))))
    with pytest.raises(InputError, match="holds a sweep of other settings: data was '/data', now '/other'"):
        check_sweep(uri, sweep("/other", num_codes=(1, 2)))
    other = dataclasses.replace(sweep(num_codes=(1, 2)), base=dataclasses.replace(tiny_config(), seed=9))
    with pytest.raises(InputError, match="seed was 0, now 9"):
        open_sweep(uri, other)
    assert (tmp_path / "sweep" / "sweep.json").read_bytes() == before
    check_sweep(uri, dataclasses.replace(other, axes={"seed": (8, 9)}))  # what varies is of the trials


def test_every_command_that_a_sweep_has_grown_by_is_taken_again(tmp_path: Path) -> None:
    """In any order, also where it gives one value of what others have varied, as axes or as cases of a table."""
    interval_3 = dataclasses.replace(tiny_config(), interval=(3,))
    commands = (
        Sweep(interval_3, {"num_codes": (1, 2)}, "/data"),
        sweep(interval=((3,), (2, 3))),
        sweep(cases=(Case("a", {"video.lr": 1e-3}), Case("b", {"video.lr": 1e-4}))),
        Sweep(dataclasses.replace(interval_3, num_codes=1), {}, "/data"),
    )
    for one in (*commands, *commands, *reversed(commands)):
        open_sweep(str(tmp_path / "s"), one)
    varied = json.loads((tmp_path / "s" / "sweep.json").read_text())["axes"]
    assert varied == {"num_codes": ["1", "2"], "interval": ["3", "2,3"], "video.lr": ["0.001", "0.0001"]}
    with pytest.raises(InputError, match="latents was 2, now 5"):
        check_sweep(str(tmp_path / "s"), Sweep(dataclasses.replace(interval_3, latents=5), {}, "/data"))


@pytest.mark.parametrize("content", [
    b"", b"[]", b"{}", b'{"format_version": 1}', b'{"format_version": 9, "config": {}, "axes": {}, "data": ""}',
    b'{"format_version": 1, "config": {}, "axes": [], "data": ""}', b'{"format_version": 1, "config": {}, "axes": {"a": 1}, "data": ""}',
])  # fmt: skip
def test_a_damaged_record_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sweep.json").write_bytes(content)
    with pytest.raises(InputError, match="another --name"):
        check_sweep(str(tmp_path), sweep())
    assert (tmp_path / "sweep.json").read_bytes() == content


def test_a_run_is_no_sweep(tiny_run: RunFolder) -> None:
    with pytest.raises(InputError, match="holds a run; sweep under another --name"):
        check_sweep(tiny_run.uri, sweep())


@pytest.fixture
def taken(tiny_run: RunFolder, tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    """A finished run, and one that takes its stage 1."""
    shutil.copytree(tiny_run.uri, tmp_path / "first")
    first = read_run(str(tmp_path / "first"))
    return first, open_run(str(tmp_path / "second"), first.run, first.data, first.uri)


def test_a_run_may_take_stage_1_of_another(taken: tuple[RunFolder, RunFolder]) -> None:
    first, second = taken
    assert second.complete("pairs") == first.complete("pairs") is not None
    assert second.complete("codes") is None and second.complete("video") is None
    again = read_run(second.uri)
    assert again == second and json.loads(second.store.read(RECORD))["stage_1_of"] == first.uri
    export_weights(second, "pairs")
    assert second.store.read("export/generator.safetensors") == first.store.read("export/generator.safetensors")
    reopened = open_run(second.uri, dataclasses.replace(second.run, num_codes=1), second.data)
    assert reopened.stage_1_of == first.uri and read_run(second.uri).run.num_codes == 1


def test_grams_are_shared_and_left(taken: tuple[RunFolder, RunFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    """What one run has computed another finds, for as many codes as it likes; and does not remove."""
    first, second = taken
    export_weights(second, "pairs")
    forget(first)
    assert not factorize(first, 0, CPU).known
    monkeypatch.setattr("mvgan.train.codes.pair_grams", pytest.fail)
    other = open_run(second.uri, dataclasses.replace(second.run, num_codes=1), second.data)
    assert factorize(other, 0, CPU).known
    forget(other)
    assert first.store.list(f"{FOLDER}/") and not other.store.list(f"{FOLDER}/")


def test_gc_leaves_what_belongs_to_another_run(taken: tuple[RunFolder, RunFolder]) -> None:
    first, second = taken
    first.store.write("pairs/data/000000064-00009-beef/state.pt", b"being written by its own driver")
    before = first.store.list()
    assert collect_run(second, dry_run=False) == []
    assert first.store.list().keys() == before.keys()
    assert [item.path for item in collect_run(first, dry_run=True)] == ["pairs/data/000000064-00009-beef/state.pt"]


def test_outcomes_and_results(tiny_run: RunFolder, tmp_path: Path) -> None:
    """Figures are those of the run's own files, as the csv module and pyarrow read them."""
    folder = open_sweep(str(tmp_path / "sweep"), Sweep(tiny_run.run, {"interval": ((4,), (2, 3)), "num_codes": (2, 1)}, tiny_run.data))
    trials = folder.sweep.trials()
    shutil.copytree(tiny_run.uri, folder.trial_uri(trials[0]))
    folder.open_trial(trials[2])
    folder.stop(trials[2], 8)
    outcomes = [outcome(folder, trial) for trial in trials]
    assert [each.status for each in outcomes] == ["done", "unfinished", "stopped", "unfinished"]
    measured = [record for record in map(json.loads, tiny_run.store.read("video/metrics.jsonl").splitlines()) if "frechet" in record]
    edits = json.loads(tiny_run.store.read("export/codes.json"))["edits"]["generalized"]
    first = outcomes[0]
    assert (first.clips, first.frechet, first.frechet_error) == (16, measured[-1]["frechet"], measured[-1]["frechet_error"])
    assert (first.backward, first.forward) == (edits["backward"]["median"], edits["forward"]["median"])
    assert outcomes[1].frechet is None and outcomes[1].clips == 0
    parquet, text = write_results(folder, outcomes, "results")
    table = pq.read_table(parquet).to_pylist()
    assert [row["interval"] for row in table] == ["4", "4", "2,3", "2,3"] and [row["num_codes"] for row in table] == [2, 1, 2, 1]
    assert table[0]["frechet"] == measured[-1]["frechet"] and table[1]["frechet"] is None
    with open(text, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == [each.status for each in outcomes]
    assert float(rows[0]["frechet"]) == measured[-1]["frechet"] and rows[0]["run"] == folder.trial_uri(trials[0])


def test_the_figure_is_that_of_what_is_exported(tiny_run: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of two commits the better one is damaged, so that the other one is exported. It is the first whose record says so, as a damaged
    last commit would leave the stage unfinished; figures are those of the history.
    """
    best = dataclasses.replace(tiny_run.run, video=dataclasses.replace(tiny_run.run.video, select="best"))
    folder = open_sweep(str(tmp_path / "sweep"), Sweep(best, {}, tiny_run.data))
    (trial,) = folder.sweep.trials()
    record = json.loads(folder.open_trial(trial).store.read(RECORD))
    shutil.copytree(tiny_run.uri, folder.trial_uri(trial), dirs_exist_ok=True)
    run = read_run(folder.trial_uri(trial))
    run.store.write(RECORD, json.dumps({name: value for name, value in record.items() if name != "stage_1_of"}).encode())
    run = read_run(run.uri)
    early, worse = sorted(run.commits("video").records(), key=lambda commit: commit.images)
    assert early.meta["frechet"] != worse.meta["frechet"]
    better = dataclasses.replace(early, meta={**early.meta, "frechet": worse.meta["frechet"] / 2})
    run.store.write(f"video/commits/{better.name}.json", _record_bytes(better))
    export_weights(run, "video")
    found = outcome(folder, trial)
    assert (found.frechet, found.status, found.clips) == (early.meta["frechet"], "done", 16)
    path = f"video/{better.files['state.pt']['path']}"
    run.store.write(path, run.store.read(path)[:-1] + b"?")
    with caplog.at_level(logging.WARNING):
        export_weights(run, "video")
    assert better.name in caplog.text
    found = outcome(folder, trial)
    assert (found.frechet, found.status, found.clips) == (worse.meta["frechet"], "done", 16)


def test_grams_go_when_no_trial_needs_them_any_more(tiny_run: RunFolder, tmp_path: Path) -> None:
    """Two generators, two trials of each; the trials of the first get their codes one after another."""
    folder = open_sweep(str(tmp_path / "s"), Sweep(tiny_run.run, {"interval": ((4,), (2,)), "num_codes": (2, 1)}, tiny_run.data))
    trials = folder.sweep.trials()
    stores = [folder.open_generator(trial).store for trial in distinct_generators(trials).values()]
    for store in stores:
        store.write(f"{FOLDER}/00000-0.grams", b"Grams")
    for codes_of, left in ((trials[0], [1, 1]), (trials[1], [0, 1]), (trials[2], [0, 1]), (trials[3], [0, 0])):
        shutil.copytree(f"{tiny_run.uri}/codes", f"{folder.trial_uri(codes_of)}/codes")
        forget_grams(folder)
        assert [len(store.list(f"{FOLDER}/")) for store in stores] == left


def test_a_sweep_may_be_moved(tiny_run: RunFolder, tmp_path: Path) -> None:
    """Its trials take the pair generators beside them, wherever that is; also those noted with the place where they were."""
    swept = Sweep(tiny_run.run, {"num_codes": (2, 1)}, tiny_run.data)
    folder = open_sweep(str(tmp_path / "old"), swept)
    first, second = folder.sweep.trials()
    shutil.copytree(tiny_run.uri, folder.open_generator(first).uri, dirs_exist_ok=True)
    folder.open_trial(first)
    open_run(folder.trial_uri(second), second.run, tiny_run.data, f"{folder.store.uri}/pairs/{second.pairs_key}")
    shutil.move(tmp_path / "old", tmp_path / "elsewhere")
    moved = open_sweep(str(tmp_path / "elsewhere"), swept)
    assert read_run(moved.trial_uri(first)).complete("pairs") is not None
    with pytest.raises(InputError, match=f"takes stage pairs of {tmp_path}/old/pairs/.*, which has not finished it, or is elsewhere now"):
        read_run(moved.trial_uri(second)).require("pairs")
    for trial in (first, second):
        assert moved.open_trial(trial).require("pairs").images == 64
        assert read_run(moved.trial_uri(trial)).home("pairs").uri == f"{tmp_path}/elsewhere/pairs/{trial.pairs_key}"


def test_places_beside_a_folder() -> None:
    assert seen_from("s3://bucket/sweeps/a/trials/1", "../../pairs/0") == "s3://bucket/sweeps/a/pairs/0"
    assert seen_from("s3://bucket/trials/1", "../../pairs/0") == "s3://bucket/pairs/0"
    assert seen_from("/runs/a/trials/1", "../../pairs/0") == "/runs/a/pairs/0"
    assert seen_from("/runs/a/trials/1", "s3://bucket/pairs/0") == "s3://bucket/pairs/0"
