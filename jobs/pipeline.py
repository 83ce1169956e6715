"""All stages in order: raw videos in, a video generator and a report out."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs._cli import Place, Settings, main
from jobs._plan import print_codes, print_ingest, print_pairs, print_video
from mvgan.config import STAGES, InputError
from mvgan.data.ingest import Plan, check_out, plan_ingest
from mvgan.data.shards import ShardSet
from mvgan.data.synthetic import FACTORS, render_set
from mvgan.distributed.codes import find_codes
from mvgan.distributed.ingest import ingest
from mvgan.distributed.resources import check_room, session
from mvgan.distributed.trainer import train_stage
from mvgan.report.page import build_report
from mvgan.storage.holder import held
from mvgan.storage.run import RECORD, check_run, open_run, read_run
from mvgan.storage.uri import open_store
from mvgan.train.initial import check_initial
from mvgan.train.session import TRAINED, check_data, check_workers
from mvgan.validation import check_pairs


SYNTHETIC_VIDEOS, SYNTHETIC_FRAMES = {"demo": 240, "smoke": 60}, 80
"""Synthetic videos by the presets that they are made for, and frames of each."""


@dataclass(frozen=True)
class Flags(Settings):
    """Flags of this verb."""

    videos: str | None = None
    """Folder or s3:// prefix of videos. Without --videos and --data a set of synthetic faces is rendered."""
    data: str | None = None
    """Shard set that `ingest` has made, in place of --videos."""
    list: str | None = None
    """Text file that selects a split of --videos: one path or name per line."""
    place: Annotated[Place, tyro.conf.arg(name="")] = field(default_factory=Place)

    def uri(self) -> str:
        """The run's folder: without a name that of the preset, and videos of one's own give a run of their own."""
        videos = open_store(self.videos).uri.rpartition("/")[2] if self.videos else ""
        return self.place.uri(f"{self.preset}-{videos}" if videos else self.preset)


def run(flags: Flags) -> None:
    """Run what is not done yet, or with --dry-run say what would run."""
    uri = flags.uri()
    shards_at = flags.data or f"{uri}/data"
    plan = _check(flags, uri, shards_at)
    if flags.dry_run:
        _print_plan(flags, uri, plan)
        return
    with held(open_store(uri), "pipeline"):
        videos = None if flags.data else flags.videos or _render(uri, SYNTHETIC_VIDEOS[flags.preset])
        if videos:
            check_out(plan_ingest(videos, shards_at, flags.settings, flags.list))  # of rendered ones it can be told only now
        with session(flags.resources):
            check_room(flags.resources)  # a cluster that cannot train is told before ingest takes its time
            if videos:
                with held(open_store(shards_at), "pipeline"):  # an ingest by itself does not know of the run around it
                    ingest(videos, shards_at, flags.settings, flags.list)
            folder = open_run(uri, flags.settings, _check_data(flags, shards_at))
            train_stage(folder, "pairs", flags.resources)
            find_codes(folder, flags.resources)
            train_stage(folder, "video", flags.resources)
    print(build_report(folder))


def _check(flags: Flags, uri: str, shards_at: str) -> Plan | None:
    """Raise InputError for all that reading alone can tell; returns what ingest would do with --videos."""
    if flags.videos and flags.data:
        raise InputError("--videos and --data are both given; give the videos, or the shards made from them")
    if flags.list and not flags.videos:
        raise InputError("--list selects a split of --videos, which is not given; give --videos, or leave --list away")
    check_pairs(flags.settings)
    for stage in TRAINED:
        check_workers(flags.settings, stage, flags.resources.workers)
    if not (flags.videos or flags.data):
        if flags.preset not in SYNTHETIC_VIDEOS and not flags.dry_run:
            raise InputError(_needs_videos(flags.preset))
        if flags.preset in SYNTHETIC_VIDEOS and uri.startswith("s3://"):
            raise InputError("the synthetic videos are rendered to a local folder; give --videos, or a local --storage")
        if open_store(shards_at).list() and not open_store(uri).exists(f"videos/{FACTORS}"):
            raise InputError(f"{uri} has data of other videos than the synthetic ones; give its --videos again, or another --name")
    check_run(uri, flags.settings, open_store(shards_at).uri)
    check_initial(flags.settings, uri)
    if flags.data:
        _check_data(flags, flags.data)
    if not flags.videos:
        return None
    plan = plan_ingest(flags.videos, shards_at, flags.settings, flags.list)
    check_out(plan)
    return plan


def _needs_videos(preset: str) -> str:
    return f"preset {preset} needs videos; give --videos or --data (synthetic ones are for {' and '.join(SYNTHETIC_VIDEOS)})"


def _check_data(flags: Flags, uri: str) -> str:
    """Whether the shards serve both trained stages; returns where they are."""
    shards = ShardSet.open(uri)
    for stage in TRAINED:
        check_data(shards, flags.settings, stage)
    return shards.uri


def _render(uri: str, num_videos: int) -> str:
    folder = f"{open_store(uri).uri}/videos"
    print(f"render: {num_videos} synthetic videos of {SYNTHETIC_FRAMES} frames to {folder}", flush=True)
    render_set(folder, num_videos, SYNTHETIC_FRAMES)
    return folder


def _print_plan(flags: Flags, uri: str, plan: Plan | None) -> None:
    settings, num_videos = flags.settings, None
    if flags.data:
        num_videos = len(ShardSet.open(flags.data, verify=False))
        print(f"ingest: nothing to do, {num_videos} videos in {flags.data}")
    elif plan is not None:
        print_ingest(plan)
    elif flags.preset in SYNTHETIC_VIDEOS:
        num_videos = SYNTHETIC_VIDEOS[flags.preset]
        print(f"ingest: {num_videos} synthetic videos of {SYNTHETIC_FRAMES} frames, to shards of {settings.resolution} px")
    else:
        print(f"ingest: {_needs_videos(flags.preset)}")
    finished = _finished(uri)
    plans = {"pairs": print_pairs, "codes": print_codes, "video": lambda run: print_video(run, num_videos)}
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
