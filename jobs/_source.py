"""Where the frames of a pipeline or a sweep come from: videos, a shard set made from them, or synthetic faces."""

from dataclasses import dataclass

from mvgan.config import InputError, Run
from mvgan.data.ingest import Plan, check_out, plan_ingest
from mvgan.data.shards import ShardSet
from mvgan.data.synthetic import FACTORS, render_set
from mvgan.distributed.ingest import ingest
from mvgan.storage.holder import held
from mvgan.storage.uri import open_store
from mvgan.train.session import TRAINED, check_data


SYNTHETIC_VIDEOS, SYNTHETIC_FRAMES = {"demo": 240, "tiny": 240, "smoke": 60}, 80
"""Synthetic videos by the presets that they are made for, and frames of each."""


@dataclass(frozen=True)
class Source:
    """Flags that name the frames."""

    videos: str | None = None
    """Folder or s3:// prefix of videos. Without --videos and --data a set of synthetic faces is rendered."""
    data: str | None = None
    """Shard set that `ingest` has made, in place of --videos."""
    list: str | None = None
    """Text file that selects a split of --videos: one path or name per line."""

    def name(self, preset: str) -> str:
        """What a run on it is called: by the preset, and by videos of one's own."""
        videos = open_store(self.videos).uri.rpartition("/")[2] if self.videos else ""
        return f"{preset}-{videos}" if videos else preset

    def shards_at(self, uri: str) -> str:
        """The shard set of what is stored at `uri`."""
        return self.data or f"{uri}/data"

    def refuse(self, preset: str, uri: str, dry_run: bool) -> None:
        """Raise InputError when the flags do not name frames."""
        if self.videos and self.data:
            raise InputError("--videos and --data are both given; give the videos, or the shards made from them")
        if self.list and not self.videos:
            raise InputError("--list selects a split of --videos, which is not given; give --videos, or leave --list away")
        if self.videos or self.data:
            return
        if preset not in SYNTHETIC_VIDEOS and not dry_run:
            raise InputError(needs_videos(preset))
        if preset in SYNTHETIC_VIDEOS and uri.startswith("s3://"):
            raise InputError("the synthetic videos are rendered to a local folder; give --videos, or a local --storage")
        if open_store(self.shards_at(uri)).list() and not open_store(uri).exists(f"videos/{FACTORS}"):
            raise InputError(f"{uri} has data of other videos than the synthetic ones; give its --videos again, or another --name")

    def plan(self, uri: str, settings: Run) -> Plan | None:
        """What ingest would do with --videos; of shards only whether they serve. Raises InputError."""
        if self.data:
            self.check(uri, settings)
        if not self.videos:
            return None
        plan = plan_ingest(self.videos, self.shards_at(uri), settings, self.list)
        check_out(plan)
        return plan

    def render(self, uri: str, preset: str, settings: Run) -> "Source":
        """This source with videos that exist: without --videos and --data those that are rendered now. Raises InputError."""
        if self.data:
            return self
        videos = self.videos or _render(uri, SYNTHETIC_VIDEOS[preset])
        check_out(plan_ingest(videos, self.shards_at(uri), settings, self.list))  # of rendered ones it can be told only now
        return Source(videos=videos, list=self.list)

    def shards(self, uri: str, settings: Run, verb: str) -> str:
        """Where the shards are, made by now, and checked to serve both trained stages. Ray has been initialised."""
        at = self.shards_at(uri)
        if self.videos:
            with held(open_store(at), verb):  # an ingest by itself does not know of the run around it
                ingest(self.videos, at, settings, self.list)
        return self.check(uri, settings)

    def check(self, uri: str, settings: Run) -> str:
        """Where the shards are, which serve both trained stages. Raises InputError when they do not, or are not there."""
        shards = ShardSet.open(self.shards_at(uri))
        for stage in TRAINED:
            check_data(shards, settings, stage)
        return shards.uri


def needs_videos(preset: str) -> str:
    """What is said of a preset for which no synthetic videos are made."""
    return f"preset {preset} needs videos; give --videos or --data (synthetic ones are for {', '.join(SYNTHETIC_VIDEOS)})"


def _render(uri: str, num_videos: int) -> str:
    folder = f"{open_store(uri).uri}/videos"
    print(f"render: {num_videos} synthetic videos of {SYNTHETIC_FRAMES} frames to {folder}", flush=True)
    render_set(folder, num_videos, SYNTHETIC_FRAMES)
    return folder
