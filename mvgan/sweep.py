"""A sweep: settings that take several values each, a trial for every combination of them, and the pair generators that they share.

In the folder of a sweep:

- `sweep.json`: the settings that all trials share, all values that those which vary have been given, and the shards.
- `pairs/<key>/`: a run for each distinct pair generator, which ends with stage 1.
- `trials/<key>/`: a run for each trial, which takes stage 1 of one of those. `stopped.json` in it: early stopping has ended it.

A key is a hash of all settings that shape what is there. So no trial is ever taken for another, whatever values a sweep is
given later, and what is finished is known by the commits of the runs alone.
"""

import hashlib
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from mvgan.config import InputError, Run, stage_of
from mvgan.settings import differences, from_dict, to_dict
from mvgan.storage.commit import Commits
from mvgan.storage.run import RunFolder, open_run
from mvgan.storage.store import Store
from mvgan.storage.uri import open_store
from mvgan.train.export import exported_images, read_json
from mvgan.train.hooks import History, read_metrics
from mvgan.train.kept import forget
from mvgan.validation import check_pairs, validate


FORMAT_VERSION = 1
RECORD, STOPPED = "sweep.json", "stopped.json"

EVALUATIONS = 4
"""How often a trial is measured where the settings ask for no measure."""

METRIC = (
    "resolution", "ingest", "stride", "network.frames", "pairs.mirror", "video.num_frames", "video.eval_clips", "video.balance",
    "video.pieces_per_window",
)  # fmt: skip
"""Settings that the measure of a trial depends on, or their groups: the same in all trials, as figures could not be compared else."""

Axes = Mapping[str, tuple[Any, ...]]
"""The values of settings that vary, by their dotted paths within `Run`, in the order in which they were given."""


CASE = "case"
"""The column of a table that has the names of cases."""


@dataclass(frozen=True)
class Case:
    """Settings that go together, by their dotted paths, under one name: a row of an ablation that is no grid."""

    name: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One combination of values."""

    values: dict[str, Any]
    """What tells it from the others, by column: its case, and the values of the axes."""
    settings: dict[str, Any]
    """All settings in which it may differ from the base."""
    run: Run
    key: str
    pairs_key: str
    """That of the pair generator, which trials share that differ in later stages only."""

    @property
    def generator_values(self) -> dict[str, Any]:
        """Those of the settings that shape the pair generator."""
        return {path: value for path, value in self.settings.items() if stage_of(path) == "pairs"}


@dataclass(frozen=True)
class Sweep:
    """The settings `base` with those of `axes` varied, for each of the `cases`, on the shards at `data`."""

    base: Run
    axes: Axes
    data: str
    cases: tuple[Case, ...] = ()
    last: str = "video"
    """The stage that ends it: video, or pairs where pair generators alone are trained and compared."""

    @property
    def columns(self) -> dict[str, tuple[Any, ...]]:
        """What tells trials apart, with its values."""
        return {CASE: tuple(case.name for case in self.cases), **self.axes} if self.cases else dict(self.axes)

    def trials(self) -> list[Trial]:
        """All trials, the last axis varying fastest; those that come to the same settings once.

        Raises InputError when an axis cannot be swept, or a combination of values is impossible.
        """
        for path, values in self.axes.items():
            _check_axis(path, values)
        found: dict[str, Trial] = {}
        for case in self.cases or (None,):
            for combination in itertools.product(*self.axes.values()):
                trial = self._trial(case, dict(zip(self.axes, combination, strict=True)))
                other = found.setdefault(trial.key, trial)
                if case and other.values[CASE] != case.name:
                    raise InputError(
                        f"the cases {other.values[CASE]} and {case.name} come to the same settings; leave away the flag that makes them so"
                    )
        return list(found.values())

    def _trial(self, case: Case | None, axes: dict[str, Any]) -> Trial:
        values, given = ({CASE: case.name} | axes, case.settings | axes) if case else (axes, axes)
        try:
            run = validate(with_values(self.base, given))
            if self.last == "video":
                check_pairs(run)
            elif not run.pairs.evaluations:
                raise InputError("pair generators are compared by measures of stage 1; set pairs.evaluations to at least 1")
        except InputError as error:
            raise InputError(f"{described(values)}: {error}") from None
        settings = _flat(to_dict(run))
        shaping = {path: value for path, value in settings.items() if stage_of(path) in ("ingest", "pairs")}
        return Trial(values, given, run, _key(settings | {"data": self.data}), _key(shaping | {"data": self.data}))


def _check_axis(path: str, values: Sequence[Any]) -> None:
    if any(path == name or path.startswith(f"{name}.") for name in METRIC):
        raise InputError(
            f"{path} cannot be swept: with another {path} the clips that trials are measured on would be others, so their figures "
            f"could not be compared; give one value, and make a sweep of its own for the next, under another --name"
        )
    if path == "video.evaluations" and 0 in values:
        raise InputError("video.evaluations 0 measures nothing, and trials are compared by their measures; give 1 or more in its place")
    if len(set(values)) != len(values):
        raise InputError(f"{path} is given a value twice: {', '.join(shown(value) for value in values)}; give each once")


def with_values(run: Run, values: Mapping[str, Any]) -> Run:
    """`run` with the values of some settings, by their dotted paths. Raises InputError for an unknown one or a wrong kind."""
    for path, value in values.items():
        nested: Any = value
        for name in reversed(path.split(".")):
            nested = {name: nested}
        run = from_dict(run, nested)
    return run


def _flat(config: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _flat(value, f"{where}{name}.") if isinstance(value, dict) else {where + name: value}
    return found


def _key(settings: Mapping[str, Any]) -> str:
    # 10 and 10.0 are the same setting.
    plain = {path: float(value) if type(value) is int else value for path, value in settings.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def described(values: Mapping[str, Any]) -> str:
    """A combination of values for people: `interval 2,3,4, num_codes 10`."""
    return ", ".join(f"{path} {shown(value)}" for path, value in values.items()) or "the settings as they are"


def distinct_generators(trials: Sequence[Trial]) -> dict[str, Trial]:
    """The first trial of each pair generator, by the generator's key."""
    found: dict[str, Trial] = {}
    for trial in trials:
        found.setdefault(trial.pairs_key, trial)
    return found


@dataclass(frozen=True)
class SweepFolder:
    """The folder of a sweep."""

    store: Store
    sweep: Sweep

    def open_generator(self, trial: Trial) -> RunFolder:
        """The run that trains the pair generator of a trial, with all its settings, as those of the base may not go with them."""
        return open_run(self.generator_uri(trial), trial.run, self.sweep.data)

    def open_trial(self, trial: Trial) -> RunFolder:
        """The run of a trial, created where it is not there."""
        return open_run(self.trial_uri(trial), trial.run, self.sweep.data, f"../../pairs/{trial.pairs_key}")

    def generator_uri(self, trial: Trial) -> str:
        """Where the run of the pair generator of a trial is."""
        return f"{self.store.uri}/pairs/{trial.pairs_key}"

    def trial_uri(self, trial: Trial) -> str:
        """Where the run of a trial is."""
        return f"{self.store.uri}/trials/{trial.key}"

    def stopped(self, trial: Trial) -> bool:
        """Whether early stopping has ended the trial."""
        return self.store.exists(f"trials/{trial.key}/{STOPPED}")

    def go_on(self, trial: Trial) -> None:
        """Forget that early stopping has ended the trial."""
        if self.stopped(trial):
            self.store.delete(f"trials/{trial.key}/{STOPPED}")

    def stop(self, trial: Trial, clips: int) -> None:
        """Note that early stopping has ended the trial after so many clips."""
        self.store.write(f"trials/{trial.key}/{STOPPED}", json.dumps({"clips": clips}).encode())


Varied = dict[str, list[str]]
"""Settings by their dotted paths, with all values they have been given, as they are written on the command line."""


def open_sweep(uri: str, sweep: Sweep) -> SweepFolder:
    """Create the sweep at `uri`, or open it again, maybe with other values of what varies: trials that are done stay.

    Raises InputError when it is of other settings or data.
    """
    store = open_store(uri)
    record = {"format_version": FORMAT_VERSION, "axes": _varied(sweep, check_sweep(uri, sweep)), **_shared(sweep)}
    store.write(RECORD, json.dumps(record, indent=1).encode())
    return SweepFolder(store, sweep)


def check_sweep(uri: str, sweep: Sweep) -> Varied:
    """The settings that have varied so far in the folder at `uri`, with their values; writes nothing.

    Raises InputError when it holds something else, or a sweep of other settings or data.
    """
    store = open_store(uri)
    if store.exists("run.json"):
        raise InputError(f"{store.uri} holds a run; sweep under another --name")
    if not store.exists(RECORD):
        return {}
    try:
        found = json.loads(store.read(RECORD))
        version, old = found["format_version"], {key: found[key] for key in ("config", "data")}
        before = {path: list(values) for path, values in found["axes"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{store.uri}/{RECORD} is damaged ({error}); restore it, or sweep under another --name") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{store.uri}/{RECORD} has format {version}; this mvgan reads format {FORMAT_VERSION}: take another --name")
    # A setting that varies, or has varied, is no part of what all trials share: whatever it was has its trials still.
    varied = {f"config.{path}" for path in _varied(sweep, before)}
    if changed := {path: values for path, values in differences(old, _shared(sweep)).items() if path not in varied}:
        what = "; ".join(f"{path.removeprefix('config.')} was {a!r}, now {b!r}" for path, (a, b) in changed.items())
        raise InputError(f"{store.uri} holds a sweep of other settings: {what}. Give the old ones, or another --name")
    return before


def _shared(sweep: Sweep) -> dict[str, Any]:
    return {"config": to_dict(sweep.base), "data": sweep.data}


def _varied(sweep: Sweep, before: Varied) -> Varied:
    """The settings that vary between trials, with their values, after those of earlier commands."""
    found = {path: list(values) for path, values in before.items()}
    for trial in sweep.trials():
        for path, value in trial.settings.items():
            values = found.setdefault(path, [])
            if shown(value) not in values:
                values.append(shown(value))
    return found


@dataclass(frozen=True)
class Outcome:
    """What has become of a trial; figures are None as long as there are none."""

    trial: Trial
    uri: str
    status: str
    """done, stopped, or unfinished."""
    clips: int
    """On which stage 3 has been trained."""
    frechet: float | None = None
    """The Frechet distance to real clips of what is exported, or, as long as nothing is, last measured (`mvgan.train.measure`: seeded
    features, not FVD)."""
    frechet_error: float | None = None
    """Its bootstrap error."""
    backward: float | None = None
    """Median edit ratio of the backward codes: the change of the edited over that of the kept frame."""
    forward: float | None = None
    """And of the forward ones."""


def outcome(folder: SweepFolder, trial: Trial) -> Outcome:
    """What the run of a trial tells of it."""
    store, uri = open_store(folder.trial_uri(trial)), folder.trial_uri(trial)
    measured = [record for record in read_metrics(store, "video") if "frechet" in record]
    done = store.exists("export/latent.safetensors")
    status = "done" if done else "stopped" if folder.stopped(trial) else "unfinished"
    clips = measured[-1]["images"] if measured else 0
    figures = _figures(measured, exported_images(store).get("video") if done else None) | _ratios(store, trial)
    return Outcome(trial, uri, status, clips, **figures)


def _figures(measured: History, exported: int | None) -> dict[str, float]:
    """What was measured last, or, where weights are exported, of these, which were taken after `exported` clips."""
    found = [record for record in measured if exported in (None, record["images"])]
    return {name: found[-1][name] for name in ("frechet", "frechet_error")} if found else {}


def _ratios(store: Store, trial: Trial) -> dict[str, float]:
    if not store.exists("export/codes.json"):
        return {}
    edits = read_json(store, "codes.json")["edits"].get(trial.run.codes.method, {})
    return {direction: edits[direction]["median"] for direction in ("backward", "forward") if direction in edits}


def forget_grams(folder: SweepFolder) -> None:
    """Remove the Grams that are kept with pair generators, of each as soon as all its trials have their codes."""
    trials = folder.sweep.trials()
    for trial in distinct_generators(trials).values():
        sharing = [other for other in trials if other.pairs_key == trial.pairs_key]
        if all(Commits(open_store(folder.trial_uri(other)), "codes").newest() is not None for other in sharing):
            forget(folder.open_generator(trial))


def _plain(value: Any) -> Any:
    """A value as a table has it: a single interval as its number."""
    if isinstance(value, tuple):
        return value[0] if len(value) == 1 else shown(value)
    return value


def write_results(folder: SweepFolder, outcomes: Sequence[Outcome], name: str) -> list[str]:
    """Write `<name>.parquet` and `<name>.csv`, a row a trial: what varies as columns, then figures; returns where they are."""
    figures = ("status", "clips", "frechet", "frechet_error", "backward", "forward")
    mixed = {path for path, values in folder.sweep.columns.items() if len({type(_plain(value)) for value in values}) > 1}
    rows = [
        {path: shown(value) if path in mixed else _plain(value) for path, value in each.trial.values.items()}
        | {figure: getattr(each, figure) for figure in figures}
        | {"run": each.uri}
        for each in outcomes
    ]
    return write_rows(folder.store, rows, name)


def write_rows(store: Store, rows: list[dict[str, Any]], name: str) -> list[str]:
    """Write `<name>.parquet` and `<name>.csv` with `rows`; returns where they are."""
    table = pa.Table.from_pylist(rows)
    parquet, text = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, write_page_checksum=True)
    pyarrow.csv.write_csv(table, text)
    files = {f"{name}.parquet": parquet, f"{name}.csv": text}
    for path, file in files.items():
        store.write(path, file.getvalue())
    return [f"{store.uri}/{path}" for path in files]
