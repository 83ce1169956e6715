"""A sweep: any settings with several values, a trial for each combination, and a page that compares them."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs._axes import Axes, split_axes
from jobs._cli import Place, Settings, main
from jobs._plan import print_ingest
from jobs._source import Source
from mvgan.config import Ended, InputError, Run
from mvgan.data.ingest import Plan
from mvgan.distributed.resources import check_room, session
from mvgan.distributed.sweep import Failures, run_sweep
from mvgan.report.frames import build_frames_page, frames_outcome, write_frames
from mvgan.report.sweep import build_sweep_page
from mvgan.report.tables import measured_videos, paper_section, pictures_sections
from mvgan.storage.holder import held
from mvgan.storage.uri import open_store
from mvgan.sweep import EVALUATIONS, Sweep, SweepFolder, check_sweep, described, distinct_generators, open_sweep, outcome, write_results
from mvgan.tables import Table
from mvgan.train.initial import check_initial
from mvgan.train.session import TRAINED, check_workers, plan_of


@dataclass(frozen=True)
class Flags(Settings):
    """Flags of this verb."""

    source: Annotated[Source, tyro.conf.arg(name="")] = field(default_factory=Source)
    place: Annotated[Place, tyro.conf.arg(name="")] = field(default_factory=Place)
    at_once: int = 0
    """Most runs at a time; 0 takes as many as the cluster has room for. Of more than that the others wait until the cluster, which is
    asked to, has grown."""
    halving: int = 0
    """Early stopping (ASHA): of the trials measured after as many clips, one in so many goes on. 0 trains all to their end, also those
    that were stopped before."""

    def uri(self) -> str:
        """The sweep's folder: without a name that of the preset and the videos."""
        return self.place.uri(f"sweep-{self.source.name(self.preset)}")

    def check(self) -> None:
        """Nothing: what is trained is each trial, and `Sweep.trials` checks that. Values that all of them replace may be any."""


def run(flags: Flags, axes: Axes) -> None:
    """Train what is not done yet and compare all of it, or with --dry-run say what would run."""
    uri = flags.uri()
    carry_out(flags, Sweep(measured(flags.settings), axes, open_store(flags.source.shards_at(uri)).uri), uri, Page())


@dataclass(frozen=True)
class Page:
    """What the results are called, and the table of the paper that they are set beside, if there is one."""

    name: str = "sweep"
    table: Table | None = None
    tiny: bool = False


def carry_out(flags: Flags, sweep: Sweep, uri: str, page: Page) -> None:
    """Train what is not done yet of `sweep` and write its page, or with --dry-run say what would run."""
    plan = _check(flags, sweep, uri)
    if flags.dry_run:
        _print_plan(sweep, f"{uri}/{page.name}.html", plan)
        return
    shared = sweep.trials()[0].run  # how videos become shards is the same in all
    with held(open_store(uri), "sweep"):
        folder, failed = None, Failures()
        try:
            source = flags.source.render(uri, flags.preset, shared)
            with session(flags.resources):
                check_room(flags.resources, math.inf)
                source.shards(uri, shared, "sweep")
                for trial in distinct_generators(sweep.trials()).values():
                    source.check(uri, trial.run)  # other intervals may need longer videos
                folder = open_sweep(uri, sweep)
                run_sweep(folder, flags.resources, flags.at_once, flags.halving, failed)
        except (Ended, KeyboardInterrupt):
            if folder is not None:
                print("sweep: ended before its end; its page is written of what there is", flush=True)
                try:
                    _conclude(folder, failed, page)
                except (InputError, OSError) as error:  # why it has ended counts more
                    print(f"sweep: the page could not be written: {error}", flush=True)
            raise
        _conclude(folder, failed, page)
        if failed:
            raise Ended(
                f"{len(failed)} of {len(sweep.trials())} trials have failed; the same command tries them again and repeats no other"
            )


def measured(settings: Run) -> Run:
    """With measures of stage 3, as trials are compared by them."""
    evaluations = settings.video.evaluations or EVALUATIONS
    return dataclasses.replace(settings, video=dataclasses.replace(settings.video, evaluations=evaluations))


def _check(flags: Flags, sweep: Sweep, uri: str) -> Plan | None:
    """Raise InputError for all that reading alone can tell; returns what ingest would do with --videos."""
    if flags.at_once < 0:
        raise InputError(f"--at-once is {flags.at_once}; give 1 or more runs, or 0 for as many as there is room for")
    if flags.halving < 0 or flags.halving == 1:
        raise InputError(f"--halving is {flags.halving}; give 2 or more, one in so many goes on, or 0 for no early stopping")
    if flags.halving and sweep.last == "pairs":
        raise InputError(f"--halving {flags.halving} stops trials of stage 3 early, and here stage 1 alone is trained; leave it away")
    flags.source.refuse(flags.preset, uri, flags.dry_run)
    trials, folder = sweep.trials(), SweepFolder(open_store(uri), sweep)
    check_sweep(uri, sweep)
    for trial in trials:
        for stage in TRAINED:
            check_workers(trial.run, stage, flags.resources.workers)
    for trial in distinct_generators(trials).values():
        check_initial(trial.run, folder.generator_uri(trial))
        if flags.source.data:
            flags.source.check(uri, trial.run)
    return flags.source.plan(uri, trials[0].run)


def _print_plan(sweep: Sweep, page: str, plan: Plan | None) -> None:
    trials = sweep.trials()
    if plan is not None:
        print_ingest(plan)
    for trial in distinct_generators(trials).values():
        print(f"pair generator of {described(trial.generator_values)}: {plan_of(trial.run, 'pairs', 0).end:,} pairs")
    told = f"{len(distinct_generators(trials))} pair generators"
    if sweep.last == "video":
        for trial in trials:
            print(f"trial of {described(trial.values)}: {trial.run.num_codes} codes each way, then stage 3")
        told += f" and {len(trials)} trials"
    print(f"sweep: {told}, to {page}")


def _conclude(folder: SweepFolder, failed: Failures, page: Page) -> None:
    """Write figures and page."""
    trials = folder.sweep.trials()
    if page.table and page.table.last == "pairs":
        found = [frames_outcome(folder, trial) for trial in trials]
        results = write_frames(folder, found, page.name)
        built = build_frames_page(folder, page.table, found, failed, page.name, page.tiny)
    else:
        outcomes = [outcome(folder, trial) for trial in trials]
        results = write_results(folder, outcomes, page.name)
        first = [paper_section(page.table, folder, measured_videos(outcomes), page.tiny)] if page.table else []
        first += pictures_sections(page.table, outcomes) if page.table else []
        built = build_sweep_page(folder, outcomes, failed, page.name, first)
    print(*results, built, sep="\n")


def cli() -> None:
    """Run the verb: several values of a setting are taken from the command line before the flags are."""
    axes: Axes = {}

    def read(argv: list[str]) -> list[str]:
        found, rest = split_axes(argv)
        axes.update(found)
        return rest

    main(
        lambda flags: run(flags, axes),
        Flags,
        "Train a video generator for each combination of several values of settings, as in `--interval 2 3 4 2,3,4 --num-codes 10 30`, "
        "and compare them. Pair generators and Grams that trials share are made once. What is done is skipped.",
        read,
    )


if __name__ == "__main__":
    cli()
