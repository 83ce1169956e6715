"""A sweep on Ray Tune, in phases that never wait for each other: all pair generators, then the Grams, then the trials.

Tune decides which run is at work and which is stopped early; what a run has done is in its own commits, from which it goes on
after any end. So Tune's notes are for one start alone, in a temporary folder: on object storage they would be a second truth,
written by a library that gives up after three tries.
"""

import functools
import logging
import math
import os
import queue
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import BasicVariantGenerator

from mvgan.config import Ended, InputError, Resources
from mvgan.data.shards import ShardSet
from mvgan.distributed.codes import factorize_latents, find_codes
from mvgan.distributed.door import Door
from mvgan.distributed.resources import LEADER_BYTES, NoRoom, check_room, leaders, nodes, teams
from mvgan.distributed.stop import Stop, awaited
from mvgan.distributed.trainer import Beside, train_stage
from mvgan.distributed.watchdog import Room
from mvgan.storage.holder import held
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import Unreachable
from mvgan.sweep import SweepFolder, Trial, described, distinct_generators, forget_grams
from mvgan.train.committer import Stopped
from mvgan.train.export import WEIGHTS, export_weights
from mvgan.train.hooks import History, read_metrics
from mvgan.train.kept import kept_settings
from mvgan.train.session import plan_of
from mvgan.train.state import UNITS


POLL_S = 2.0
"""Time between two looks at what training has measured, and whether it has to end."""

LATE_S = 120.0
"""Time to commit and to end at a stop, beside the `hang_s` after which what hangs in a run is ended."""

DRIVER: dict[str, float] = {"CPU": 0, "memory": LEADER_BYTES}
"""What the process asks for that leads a run: no CPU, as leaders that hold the CPUs of their own workers would wait for ever."""

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
"""Tune writes no tables and no logs of its own, bears a last report without a measure, and leaves Ctrl-C to us."""


ERROR_LOG = "logs/sweep-error.txt"
"""In the folder of a run: what ended it that nobody foresaw."""

logger = logging.getLogger(__name__)

Failures = dict[str, str]
"""Why runs have failed, by their keys."""


@dataclass(frozen=True)
class Phase:
    """Runs of one kind, which Tune leads side by side. Travels to the processes that lead them."""

    what: str
    stage: str
    """Whose measures tell how far a run is."""
    folder: SweepFolder
    trials: Mapping[str, Trial]
    """By the keys of the runs."""
    resources: Resources
    at_once: int = 1
    """Most runs at a time."""
    halving: int = 0
    """As of `run_sweep`."""

    def open(self, key: str) -> RunFolder:
        """The run of this kind."""
        trial = self.trials[key]
        return self.folder.open_generator(trial) if self.stage == "pairs" else self.folder.open_trial(trial)

    def finished(self, key: str) -> bool:
        """Whether the run has exported what its stage makes."""
        return self.open(key).store.exists(f"export/{WEIGHTS[self.stage]}")

    def stopped(self, key: str) -> bool:
        """Whether early stopping has ended the run, and is asked for now too: without it, it goes on."""
        return bool(self.halving) and self.folder.stopped(self.trials[key])

    def end(self, key: str) -> int:
        """Images at the end of the stage."""
        run = self.open(key)
        return plan_of(run.run, self.stage, len(ShardSet.open(run.data, verify=False))).end

    def name(self, key: str) -> str:
        """The run for people."""
        trial = self.trials[key]
        shaping = trial.generator_values if self.stage == "pairs" else trial.values
        return f"{self.what} of {described(shaping)}"

    def train(self, run: RunFolder, placed: Callable[[Room], None]) -> None:
        """Have the run do its part, and call `placed` when its workers have begun, with the room that they hold."""
        trainings = min(self.at_once, max(1, teams(nodes()[0], self.resources)))
        with held(run.store, "sweep"):
            if self.stage == "video":
                find_codes(run, self.resources)
            train_stage(run, self.stage, self.resources, Beside(trainings, placed))


def run_sweep(folder: SweepFolder, resources: Resources, at_once: int, halving: int, failed: Failures) -> None:
    """Train all that a sweep needs and that is not done; notes in `failed` which trials have failed. Ray has been initialised.

    at_once: most runs at a time; 0 takes as many as the cluster has room for. Those that find no room wait for it. halving: of the
    trials that are measured after as many clips, one in so many goes on (ASHA); 0 trains all to their end, also those that were
    stopped before. Raises InputError when the cluster holds no run at all.
    """
    room = _room(resources)
    if at_once > room:
        print(f"sweep: the cluster has room for {room} of {at_once} runs at once; others wait until it has grown", flush=True)
    _phases(folder, resources, at_once or room, halving, failed)


def _room(resources: Resources) -> int:
    """How many runs the cluster, if it were free, holds at once. Raises InputError when it is none."""
    check_room(resources, math.inf)
    whole, _ = nodes()
    if not leaders(whole):
        raise InputError(
            f"the process that leads a run takes {LEADER_BYTES // 2**20} MiB of Ray's memory on one node; no node has as much; "
            "start a node with a higher --memory (of ray start), or leave that flag away"
        )
    return min(teams(whole, resources), leaders(whole))


def _phases(folder: SweepFolder, resources: Resources, at_once: int, halving: int, failed: Failures) -> None:
    """As `run_sweep`, with at most `at_once` runs at a time."""
    trials = folder.sweep.trials()
    generators = Phase("pair generator", "pairs", folder, distinct_generators(trials), resources, at_once)
    ended: Failures = {}
    try:
        _tune(generators, [key for key in generators.trials if not generators.finished(key)], None, ended)
    finally:
        lost = {trial.key: f"its pair generator failed: {ended[trial.pairs_key]}" for trial in trials if trial.pairs_key in ended}
        failed.update(lost)
    if folder.sweep.last == "pairs":
        return
    failed.update(_grams([trial for trial in trials if trial.key not in failed], folder, resources))
    phase = Phase("trial", "video", folder, {trial.key: trial for trial in trials if trial.key not in failed}, resources, at_once, halving)
    due = _due(phase)
    _tune(phase, due, _asha(phase, halving) if halving and due else None, failed)
    forget_grams(folder)


def _due(phase: Phase) -> list[str]:
    """The trials that Tune leads, in this order. With early stopping those that have ended take part, and first: others are judged by
    what they have measured."""
    ended = {key: phase.finished(key) or phase.stopped(key) for key in phase.trials}
    due = [key for key in phase.trials if phase.halving or not phase.finished(key)]
    return sorted(due, key=lambda key: not ended[key])


def _grams(trials: Sequence[Trial], folder: SweepFolder, resources: Resources) -> Failures:
    """Have the latents of all trials factorized, each once for those that share it, by tasks that have the cluster to themselves.

    Returns for which trials that has failed.
    """
    outcomes: dict[tuple[Any, ...], str | None] = {}
    lost = {}
    for trial in trials:
        settings = (trial.pairs_key, trial.run.codes.select, trial.run.latents, *kept_settings(trial.run.codes).items())
        run = folder.open_trial(trial)
        if run.complete("codes") is not None:
            continue
        if settings not in outcomes:
            print(f"sweep: Grams of {described(trial.values)}", flush=True)
            outcomes[settings] = _factorized(run, resources)
        if (error := outcomes[settings]) is not None:
            lost[trial.key] = error
    return lost


def _factorized(run: RunFolder, resources: Resources) -> str | None:
    """Have the latents of a run factorized, however long there is no room for it; why it has failed, or None."""
    while True:
        try:
            export_weights(run, "pairs")
            factorize_latents(run, resources)
            return None
        except NoRoom as error:
            print(f"sweep: waits again: {error}", flush=True)
        except Stop:
            raise
        except (InputError, Ended) as error:
            return str(error)


def _asha(phase: Phase, halving: int) -> ASHAScheduler:
    """Early stopping by clips: Tune's own count of reports starts again with each start."""
    ends = [phase.end(key) for key in phase.trials]
    first = min(trial.run.video.evaluations for trial in phase.trials.values())
    grace = max(1, min(ends) // first)
    return ASHAScheduler("clips", "frechet", "min", max_t=max(ends), grace_period=grace, reduction_factor=halving)


def _tune(phase: Phase, due: Sequence[str], scheduler: ASHAScheduler | None, failed: Failures) -> None:
    """Have Tune lead the runs `due`; notes in `failed` which have failed. Raises Stop once those at work have committed and ended."""
    if not due:
        return
    os.environ.update(QUIET)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    teller, at_once = _Teller(phase, len(due), failed), min(phase.at_once, len(due))
    print(f"sweep: {len(due)} of {len(phase.trials)} {phase.what}s to train, {at_once} at once", flush=True)
    _, free = nodes()
    if leaders(free) < at_once:
        print(f"sweep: Ray's memory that is free holds {leaders(free)} of the {at_once} processes that lead runs; others wait", flush=True)
    door, search = Door(phase.resources), BasicVariantGenerator(max_concurrent=at_once)
    with awaited() as asked, tempfile.TemporaryDirectory(prefix="mvgan-tune-") as notes:
        ending = _Ending(phase, asked, door, search)
        tune.Tuner(
            tune.with_resources(functools.partial(_lead, phase=phase, door=door), tune.PlacementGroupFactory([DRIVER])),
            param_space={"key": tune.grid_search(list(due))},
            tune_config=tune.TuneConfig(search_alg=search, scheduler=scheduler),
            run_config=tune.RunConfig(name=phase.stage, storage_path=notes, verbose=0, callbacks=[ending, teller]),
        ).fit()
    door.close()


def _lead(config: dict[str, Any], phase: Phase, door: Door) -> None:
    """What a process of Tune does: tell what the run has measured before, train it to its end or a stop, and tell what it measures."""
    key = config["key"]
    run, end = phase.open(key), phase.end(key)
    told = _tell(run, phase.stage, end, -1)
    outcome: dict[str, str] = {}
    waits: queue.SimpleQueue[str] = queue.SimpleQueue()
    if not phase.stopped(key):
        if phase.stage == "video":
            phase.folder.go_on(phase.trials[key])
        thread = threading.Thread(target=_train, args=(phase, run, door, waits.put, outcome), daemon=True)
        thread.start()
        while thread.is_alive():
            door.heed()
            thread.join(POLL_S)
            while not waits.empty():
                tune.report({"waits": waits.get(), "ended": False})
            told = _tell(run, phase.stage, end, told)
    measured = _measured(run, phase.stage)
    last = {"clips": measured[-1]["images"], "frechet": measured[-1]["frechet"]} if measured else {}
    tune.report({**last, "ended": True, **outcome})


def _tell(run: RunFolder, stage: str, end: int, told: int) -> int:
    """Tell Tune of what was measured after more than `told` images, but for the end: what has got there is exported, not stopped."""
    for record in _measured(run, stage):
        if told < record["images"] < end:
            told = record["images"]
            tune.report({"clips": told, "frechet": record["frechet"], "ended": False})
    return told


def _measured(run: RunFolder, stage: str) -> History:
    """What was measured so far; nothing, and a line in the leader's log, while the storage is out of reach, as training bears that too."""
    try:
        return [record for record in read_metrics(run.store, stage) if "frechet" in record]
    except (Unreachable, OSError) as error:
        logger.warning("%s: its measures cannot be read now: %s", run.uri, error)
        return []


def _train(phase: Phase, run: RunFolder, door: Door, say: Callable[[str], None], outcome: dict[str, str]) -> None:
    """Train; whatever ends it becomes a line, a stop's or an error's, so that one run's failure is not the end of the others."""
    try:
        _train_in_turn(phase, run, door, say)
    except (Stop, Stopped) as stop:
        outcome["stopped"] = str(stop)
    except (InputError, Ended) as error:
        outcome["error"] = str(error)
    except Exception as error:
        outcome["error"] = f"{type(error).__name__}; see {run.store.uri}/{ERROR_LOG}"
        run.store.write(ERROR_LOG, traceback.format_exc().encode())


def _train_in_turn(phase: Phase, run: RunFolder, door: Door, say: Callable[[str], None]) -> None:
    """Train once there is room, and again when it was lost before or while the workers began; says why it waits."""
    while True:
        door.wait(run.uri, say)
        try:
            phase.train(run, functools.partial(door.placed, run.uri))
            return
        except NoRoom as error:
            say(f"waits again: {error}")
        finally:
            door.left(run.uri)


class _Ending(tune.Callback):
    """Ends what Tune leads at a stop: the runs at work commit and end by themselves, and no other begins.

    Were Tune, or the process, to end as soon as it is asked to, the processes that lead runs would be killed.
    """

    def __init__(self, phase: Phase, asked: Callable[[], Stop | None], door: Door, search: BasicVariantGenerator) -> None:
        self.phase, self.asked, self.door, self.search = phase, asked, door, search
        self.late_s = phase.resources.hang_s + LATE_S
        self.until: float | None = None

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """In each round of Tune. Raises Stop, which Tune passes on, when no run is at work any more, or one does not end."""
        if (stop := self.asked()) is None:
            return
        at_work = [trial for trial in trials if trial.status == TuneTrial.RUNNING]
        if self.until is None:
            self.until = time.monotonic() + self.late_s
            self.search.set_finished()
            self.door.stop(stop)
            print(f"sweep: {stop.why}; of the {self.phase.what}s {len(at_work)} are at work, which commit and end", flush=True)
        if not at_work:
            raise stop
        if time.monotonic() > self.until:
            names = ", ".join(self.phase.name(trial.config["key"]) for trial in at_work)
            print(f"sweep: {names}: not ended within {self.late_s:g} s; killed, and what came after the last commit is lost", flush=True)
            raise stop


class _Teller(tune.Callback):
    """Prints what becomes of the runs, and notes which have failed and which were stopped early."""

    def __init__(self, phase: Phase, due: int, failed: Failures) -> None:
        self.phase, self.due, self.ended, self.failed = phase, due, 0, failed

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A measure, or why the run waits."""
        if "waits" in result:
            self._say(f"{self.phase.name(trial.config['key'])} {result['waits']}")
        elif not result["ended"]:
            unit = UNITS[self.phase.stage]
            self._say(f"{self.phase.name(trial.config['key'])}: Frechet distance {result['frechet']:.4g} after {result['clips']:,} {unit}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The run has ended, or early stopping has ended it."""
        key, result = trial.config["key"], trial.last_result
        if result.get("error"):
            self._fail(key, result["error"])
        elif self.phase.finished(key):  # also when its measures, told again, would have had it stopped
            self._end(key, "done", result)
        elif "stopped" in result:
            self._say(f"{self.phase.name(key)}: {result['stopped']}")
        elif not result.get("ended"):
            self.phase.folder.stop(self.phase.trials[key], result["clips"])
            self._end(key, "stopped early", result)
        elif self.phase.stopped(key):
            self._end(key, "stopped early", result)
        else:
            self._fail(key, "it has ended without a result; the same command goes on from its last commit")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The process that led the run has died."""
        self._fail(trial.config["key"], "the process that led it has died; the same command goes on from its last commit")

    def _fail(self, key: str, why: str) -> None:
        self.failed[key] = why
        self._end(key, f"failed: {why}", {})

    def _end(self, key: str, how: str, result: dict[str, Any]) -> None:
        self.ended += 1
        figure = f", Frechet distance {result['frechet']:.4g}" if "frechet" in result else ""
        self._say(f"{self.ended}/{self.due} {self.phase.what}s: {self.phase.name(key)} {how}{figure}")

    @staticmethod
    def _say(line: str) -> None:
        print(f"sweep: {line}", flush=True)
