"""All stages in order: raw videos in, a video generator and a report out."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs._cli import Place, Settings, main
from jobs._plan import print_codes, print_ingest, print_pairs, print_video
from jobs._source import SYNTHETIC_FRAMES, SYNTHETIC_VIDEOS, Source, needs_videos
from mvgan.config import STAGES
from mvgan.data.ingest import Plan
from mvgan.data.shards import ShardSet
from mvgan.distributed.codes import find_codes
from mvgan.distributed.resources import check_cluster, session
from mvgan.distributed.trainer import train_stage
from mvgan.report.page import build_report
from mvgan.storage.holder import held
from mvgan.storage.run import RECORD, check_run, open_run, read_run
from mvgan.storage.uri import open_store
from mvgan.train.initial import check_initial
from mvgan.train.session import TRAINED, check_workers
from mvgan.validation import check_pairs


@dataclass(frozen=True)
class Flags(Settings):
    """Flags of this verb."""

    source: Annotated[Source, tyro.conf.arg(name="")] = field(default_factory=Source)
    place: Annotated[Place, tyro.conf.arg(name="")] = field(default_factory=Place)

    def uri(self) -> str:
        """The run's folder: without a name that of the preset, and videos of one's own give a run of their own."""
        return self.place.uri(self.source.name(self.preset))


def run(flags: Flags) -> None:
    """Run what is not done yet, or with --dry-run say what would run."""
    uri, settings = flags.uri(), flags.settings
    plan, taken = _check(flags, uri)
    if flags.dry_run:
        _print_plan(flags, uri, plan, taken)
        return
    with held(open_store(uri), "pipeline"):
        source = flags.source.render(uri, flags.preset, settings)
        with session(flags.resources):
            check_cluster(flags.resources)  # a cluster that cannot train is told before ingest takes its time
            folder = open_run(uri, settings, source.shards(uri, settings, "pipeline"))
            train_stage(folder, "pairs", flags.resources)
            find_codes(folder, flags.resources)
            train_stage(folder, "video", flags.resources)
    print(build_report(folder))


def _check(flags: Flags, uri: str) -> tuple[Plan | None, list[str]]:
    """Raise InputError for all that reading alone can tell; returns what ingest would do with --videos, and lines of what stage 1 takes."""
    check_pairs(flags.settings)
    for stage in TRAINED:
        check_workers(flags.settings, stage, flags.resources.workers)
    flags.source.refuse(flags.preset, uri, flags.dry_run)
    check_run(uri, flags.settings, open_store(flags.source.shards_at(uri)).uri)
    taken = check_initial(flags.settings, uri)
    return flags.source.plan(uri, flags.settings), taken


def _print_plan(flags: Flags, uri: str, plan: Plan | None, taken: list[str]) -> None:
    settings, num_videos = flags.settings, None
    if flags.source.data:
        num_videos = len(ShardSet.open(flags.source.data, verify=False))
        print(f"ingest: nothing to do, {num_videos} videos in {flags.source.data}")
    elif plan is not None:
        print_ingest(plan)
    elif flags.preset in SYNTHETIC_VIDEOS:
        num_videos = SYNTHETIC_VIDEOS[flags.preset]
        print(f"ingest: {num_videos} synthetic videos of {SYNTHETIC_FRAMES} frames, to shards of {settings.resolution} px")
    else:
        print(f"ingest: {needs_videos(flags.preset)}")
    finished = _finished(uri)
    plans = {"pairs": lambda run: print_pairs(run, taken), "codes": print_codes, "video": lambda run: print_video(run, num_videos)}
    for stage, print_stage in plans.items():
        if stage in finished:
            print(f"{stage}: complete, skipped")
        else:
            print_stage(settings)
    print(f"report: {uri}/report.html")


def _finished(uri: str) -> set[str]:
    """Stages of an existing run that a new start would skip."""
    if not open_store(uri).exists(RECORD):
        return set()
    folder = read_run(uri)
    return {stage for stage in STAGES[1:] if folder.complete(stage)}


if __name__ == "__main__":
    main(run, Flags, "Raw videos in, a video generator and a report out: ingest, pairs, codes, video, report. What is done is skipped.")
