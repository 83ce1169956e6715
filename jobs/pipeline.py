"""All stages in order: raw videos in, a video generator and a report out."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs._cli import Place, Settings, main
from jobs._plan import print_codes, print_ingest, print_pairs, print_video
from mvgan.config import STAGES, InputError
from mvgan.data.ingest import plan_ingest
from mvgan.data.shards import ShardSet
from mvgan.data.synthetic import render_set
from mvgan.distributed.codes import find_codes
from mvgan.distributed.ingest import ingest
from mvgan.distributed.resources import session
from mvgan.distributed.trainer import train_stage
from mvgan.report.page import build_report
from mvgan.storage.holder import held
from mvgan.storage.run import RECORD, check_run, open_run, read_run
from mvgan.storage.uri import open_store
from mvgan.train.session import TRAINED, check_data, check_workers


SYNTHETIC_VIDEOS, SYNTHETIC_FRAMES = 240, 80
RENDERED = ("demo", "smoke")
"""Presets that the synthetic videos are made for."""


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


def run(flags: Flags) -> None:
    """Run what is not done yet, or with --dry-run say what would run."""
    if flags.videos and flags.data:
        raise InputError("--videos and --data are both given; give the videos, or the shards made from them")
    for stage in TRAINED:
        check_workers(flags.settings, stage, flags.resources.workers)
    if flags.dry_run:
        _print_plan(flags)
        return
    if not (flags.videos or flags.data or flags.preset in RENDERED):
        raise InputError(f"preset {flags.preset} needs videos; give --videos or --data (synthetic ones are for {' and '.join(RENDERED)})")
    shards_at = flags.data or f"{flags.place.uri(flags.preset)}/data"
    if not (flags.data or flags.videos) and flags.place.storage.startswith("s3://"):
        raise InputError("the synthetic videos are rendered to a local folder; give --videos, or a local --storage")
    check_run(flags.place.uri(flags.preset), flags.settings, open_store(shards_at).uri)
    if flags.data:
        _check(flags, flags.data)
    elif flags.videos:
        plan_ingest(flags.videos, shards_at, flags.settings, flags.list)
    with held(open_store(flags.place.uri(flags.preset)), "pipeline"), session(flags.resources):
        if not flags.data:
            videos = flags.videos or _render(flags.place.uri(flags.preset))
            with held(open_store(shards_at), "pipeline"):  # an ingest by itself does not know of the run around it
                ingest(videos, shards_at, flags.settings, flags.list)
        data = _check(flags, shards_at)
        folder = open_run(flags.place.uri(flags.preset), flags.settings, data)
        train_stage(folder, "pairs", flags.resources)
        find_codes(folder, flags.resources)
        train_stage(folder, "video", flags.resources)
    print(build_report(folder))


def _check(flags: Flags, uri: str) -> str:
    """Whether the shards serve both trained stages; returns where they are."""
    shards = ShardSet.open(uri)
    for stage in TRAINED:
        check_data(shards, flags.settings, stage)
    return shards.uri


def _render(uri: str) -> str:
    folder = f"{uri}/videos"
    print(f"render: {SYNTHETIC_VIDEOS} synthetic videos of {SYNTHETIC_FRAMES} frames to {folder}", flush=True)
    render_set(folder, SYNTHETIC_VIDEOS, SYNTHETIC_FRAMES)
    return folder


def _print_plan(flags: Flags) -> None:
    settings, num_videos = flags.settings, None
    if flags.data:
        _check(flags, flags.data)
        num_videos = len(ShardSet.open(flags.data))
        print(f"ingest: nothing to do, {num_videos} videos in {flags.data}")
    elif flags.videos:
        print_ingest(flags.videos, f"{flags.place.uri(flags.preset)}/data", settings, flags.list)
    else:
        print(f"ingest: {SYNTHETIC_VIDEOS} synthetic videos of {SYNTHETIC_FRAMES} frames, to shards of {settings.resolution} px")
        num_videos = SYNTHETIC_VIDEOS
    finished = _finished(flags.place.uri(flags.preset))
    plans = {"pairs": print_pairs, "codes": print_codes, "video": lambda run: print_video(run, num_videos)}
    for stage, print_stage in plans.items():
        if stage in finished:
            print(f"{stage}: complete, skipped")
        else:
            print_stage(settings)
    print(f"report: {flags.place.uri(flags.preset)}/report.html")


def _finished(uri: str) -> set[str]:
    """Stages of an existing run that a new start would skip."""
    if not open_store(uri).exists(RECORD):
        return set()
    folder = read_run(uri)
    return {stage for stage in STAGES[1:] if folder.complete(stage)}


if __name__ == "__main__":
    main(run, Flags, "Raw videos in, a video generator and a report out: ingest, pairs, codes, video, report. What is done is skipped.")
