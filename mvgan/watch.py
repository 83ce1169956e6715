"""How far a run is, from its folder alone: no cluster is asked, and nothing is written."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mvgan.config import STAGES, InputError
from mvgan.data.shards import PLAN, ShardSet
from mvgan.storage.holder import Holder, holder_of
from mvgan.storage.run import RECORD, RunFolder, read_run
from mvgan.storage.uri import Store, open_store
from mvgan.sweep import RECORD as SWEEP
from mvgan.train.exposed import EXPOSED, LAG, SLOWEST, WORKERS
from mvgan.train.guard import SKIPPED
from mvgan.train.hooks import History, read_metrics
from mvgan.train.kept import FOLDER as KEPT
from mvgan.train.session import TRAINED, plan_of
from mvgan.train.stage import DATA_WAIT
from mvgan.train.state import UNITS
from mvgan.train.tripwires import tripped, wires_of


RECENT = 10
"""Records of metrics over which a rate is taken, with the evaluations and commits between them."""

STRAGGLES = 0.8
"""Share of those records in which the same worker is behind, from which on it is told."""
LAGS = 0.1
"""And the share of a step that the others wait for it."""


@dataclass(frozen=True)
class Training:
    """What the metrics of a trained stage tell."""

    images: int = 0
    """How far its newest record is, in pairs or clips; what was trained since is in no file."""
    elapsed_s: float = 0.0
    """Seconds of training up to there, those of earlier drivers up to the commit that was gone on from included."""
    per_s: float | None = None
    """Images in a second, over the last records; None where they took no time that could be measured."""
    data_wait: float | None = None
    """Share of a step that waits for data, mean of the last records."""
    comm_s: float | None = None
    """Seconds of a step that wait for other workers, mean of the last records; None with one worker."""
    straggler: tuple[int, float] | None = None
    """The worker that is behind in most of the last records, and the seconds of a step that others wait for it, their mean."""
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageLook:
    """How far a stage is."""

    name: str
    unit: str
    end: int
    """What it ends at."""
    elsewhere: str | None
    """The run that it is taken from, if it is not of this one."""
    complete: bool
    batch: int = 0
    training: Training = Training()
    record_age_s: float | None = None
    """Seconds since metrics were last written."""
    commit: int | None = None
    """Images at its newest commit, whose files were not verified."""
    commit_age_s: float | None = None

    @property
    def eta_s(self) -> float | None:
        """Seconds of training that are left after the newest record, at the rate of the last ones."""
        return (self.end - self.training.images) / self.training.per_s if self.training.per_s else None


@dataclass(frozen=True)
class Look:
    """How far a run is."""

    uri: str
    holder: Holder | None
    stages: tuple[StageLook, ...]
    """Those that have begun, in order; none while videos are ingested."""
    goal: str
    """The stage that ends it: that of the verb at work, or without one the newest that has begun."""
    ingested: str = ""
    """While videos are ingested, how far that is."""

    @property
    def at_work(self) -> bool:
        """Whether a driver is at work."""
        return self.holder is not None and self.holder.at_work

    @property
    def complete(self) -> bool:
        """Whether the goal is reached and its driver has gone."""
        return not self.at_work and any(stage.complete for stage in self.stages if stage.name == self.goal)


def look(uri: str) -> Look:
    """Look at the run at `uri` once. Raises InputError where there is none, or it is damaged, or a sweep."""
    store = open_store(uri)
    holder = holder_of(store)
    if not store.exists(RECORD):
        if store.exists(SWEEP):
            raise InputError(f"{store.uri} holds a sweep; watch one of its runs, as {_trial(store)}")
        if holder and holder.at_work:
            return Look(store.uri, holder, (), "video", _ingested(store))
    folder = read_run(uri)
    stages = tuple(_stage(folder, name) for name in STAGES[1:] if folder.commits(name).begun())
    newest = stages[-1].name if stages else "pairs"
    whole = folder.stage_1_of is not None or (holder is not None and holder.what == "pipeline")
    verb = holder.what if holder and holder.what in STAGES else newest
    return Look(store.uri, holder, stages, "video" if whole else verb)


def _trial(store: Store) -> str:
    """A run of a sweep, for its name."""
    found = [path for path in store.list("trials/") if path.endswith(f"/{RECORD}")]
    return f"{store.uri}/{found[0].removesuffix(f'/{RECORD}')}" if found else f"{store.uri}/trials/<key>, once there are any"


def _ingested(store: Store) -> str:
    if not store.exists(f"data/{PLAN}"):
        return "has not begun to encode"
    videos = json.loads(store.read(f"data/{PLAN}"))["num_sources"]
    groups = sum(path.endswith(".json") for path in store.list("data/shards/"))
    return f"{groups:,} groups of videos are encoded, of {videos:,} videos in all"


def _stage(folder: RunFolder, name: str) -> StageLook:
    home, run = folder.home(name), folder.run
    elsewhere = None if home == folder.store else home.uri
    newest = next(iter(folder.commits(name).records()), None)
    complete = newest is not None and bool(newest.meta["complete"])
    if name not in TRAINED:
        grams = [path for path in folder.home("pairs").list(f"{KEPT}/") if path.endswith(".grams")]
        kept = {path.removeprefix(f"{KEPT}/").partition("-")[0] for path in grams}  # one latent has several, of each setting
        return StageLook(name, "latents", run.latents, elsewhere, complete, training=Training(min(len(kept), run.latents)))
    by_epochs = name == "video" and run.video.epochs
    plan = plan_of(run, name, len(ShardSet.open(folder.data, verify=False)) if by_epochs else 0)
    history = read_metrics(home, name)
    return StageLook(
        name, UNITS[name], plan.end, elsewhere, complete, plan.batch,
        training_of(history, UNITS[name], tripped(wires_of(run, name), history)),
        home.age_s(f"{name}/metrics.jsonl"),
        newest.images if newest else None,
        home.age_s(f"{name}/commits/{newest.name}.json") if newest else None,
    )  # fmt: skip


def training_of(history: History, unit: str, signs: Sequence[str] = ()) -> Training:
    """What the metrics `history` of a stage tell, beside the `signs` of its tripwires."""
    records = [record for record in history if "elapsed_s" in record]  # not those of an evaluation
    if not records:
        return Training()
    now, before = records[-1], records[-RECENT - 1] if len(records) > RECENT else {"images": 0, "elapsed_s": 0.0}
    took_s = now["elapsed_s"] - before["elapsed_s"]
    per_s = (now["images"] - before["images"]) / took_s if took_s > 0 else None
    alarms = [
        f"{_total(records, metric)} {words}, newest in the record at {_newest(records, metric):,} {unit}"
        for metric, words in (("missed_commits", "commits were missed"), (SKIPPED, "optimizer steps were left out"))
        if _total(records, metric)
    ]
    recent = records[-RECENT:]
    return Training(
        now["images"], now["elapsed_s"], per_s, _mean(recent, DATA_WAIT), _mean(recent, EXPOSED), _straggler(recent), (*alarms, *signs)
    )  # fmt: skip


def _straggler(records: History) -> tuple[int, float] | None:
    now = records[-1].get(WORKERS)
    records = list(itertools.takewhile(lambda record: record.get(WORKERS) == now, reversed(records)))  # others were numbered otherwise
    behind = [record[SLOWEST] for record in records if SLOWEST in record]
    worker = max(set(behind), key=behind.count, default=-1)
    if len(behind) < RECENT or behind.count(worker) < STRAGGLES * len(records):
        return None
    lag = _mean([record for record in records if record.get(SLOWEST) == worker], LAG)
    return (round(worker), lag) if lag else None


def _total(records: History, metric: str) -> int:
    return round(sum(record.get(metric, 0) for record in records))


def _newest(records: History, metric: str) -> int:
    return max(record["images"] for record in records if record.get(metric))


def _mean(records: History, metric: str) -> float | None:
    values = [record[metric] for record in records if metric in record]
    return sum(values) / len(values) if values else None


def lines(found: Look, dollars_per_hour: float | None = None) -> Iterator[str]:
    """A look for people, with what its training has cost at so many dollars an hour."""
    yield f"{found.uri}: {state(found)}"
    if found.ingested:
        yield f"ingest: {found.ingested}"
    for stage in found.stages:
        yield from _stage_lines(stage, found.at_work)
    if dollars_per_hour is not None:
        seconds = sum(stage.training.elapsed_s for stage in found.stages if stage.elsewhere is None)
        yield (
            f"cost: ${dollars_per_hour * seconds / 3600:.2f} for {span(seconds)} of training at ${dollars_per_hour:g} an hour; "
            "ingest, stage codes, starts, and steps that were repeated are not in it"
        )


def state(found: Look) -> str:
    """Whether the run is at work, complete or stopped, and by whom."""
    who = f"by {found.holder.who}" if found.holder else "by no driver that its folder knows"
    if found.at_work:
        return f"at work, {who}"
    if found.complete:
        return f"complete with stage {found.goal}, {who}"
    how = f"has given no sign for {span(found.holder.silent_s)}" if found.holder and not found.holder.left else "has ended"
    return f"stopped before the end of stage {found.goal}, {who}, which {how}" if found.holder else f"stopped, {who}"


def _stage_lines(stage: StageLook, at_work: bool) -> Iterator[str]:
    training = stage.training
    taken = f", taken from {stage.elsewhere}" if stage.elsewhere else ""
    if stage.complete:
        yield f"{stage.name}: complete, {stage.end:,} {stage.unit}{_trained(training)}{taken}"
    else:
        rate = f", {training.per_s:.4g} {stage.unit}/s" if training.per_s else ""
        eta = f", ETA {span(stage.eta_s)}" if at_work and stage.eta_s is not None else ""
        age = f"; newest metrics {span(stage.record_age_s)} ago" if stage.record_age_s is not None else ""
        done = f"{training.images:,} of {stage.end:,} {stage.unit} ({100 * training.images / stage.end:.0f} %)"
        yield f"{stage.name}: {done}{rate}{eta}{_trained(training)}{age}{taken}"
        if stage.name in TRAINED:
            yield f"  last commit: {_commit(stage)}"
    yield from _waits(stage)
    if (slow := _slow(stage)) and not stage.complete:
        yield f"  ALARM: {slow}"
    for alarm in training.alarms:
        yield f"  ALARM: {alarm}"


def _trained(training: Training) -> str:
    return f", trained for {span(training.elapsed_s)}" if training.elapsed_s else ""


def _commit(stage: StageLook) -> str:
    if stage.commit is None or stage.commit_age_s is None:
        return "none yet"
    return f"at {stage.commit:,} {stage.unit}, {span(stage.commit_age_s)} ago"


def _waits(stage: StageLook) -> Iterator[str]:
    """What a step waits for. Figures are means over workers."""
    training = stage.training
    if training.data_wait is None:
        return
    words = f"  waits: {100 * training.data_wait:.1f} % of a step for data"
    if training.comm_s is not None:
        step = f" of {stage.batch / training.per_s:.3g} s" if training.per_s else ""
        words += f"; {training.comm_s:.3g} s of a step{step} for other workers"
    yield words


def _slow(stage: StageLook) -> str:
    """Which worker holds the others up, if one does for a share of a step that matters."""
    training = stage.training
    if training.straggler is None or not training.per_s:
        return ""
    (worker, lag), step = training.straggler, stage.batch / training.per_s
    if lag < LAGS * step:
        return ""
    own = ", which also draws and measures" if worker == 0 else ""
    return (
        f"the others wait {lag:.3g} s of a step of {step:.3g} s for worker {worker}{own}, in most of the last {RECENT} records; "
        f"where it runs is in logs/{stage.name}-*.log"
    )


def span(seconds: float) -> str:
    """A time for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
