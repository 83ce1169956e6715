"""Videos, or folders of numbered frames, to shards."""

from dataclasses import dataclass

import tyro

from jobs._cli import Settings, main
from jobs._plan import print_ingest
from mvgan.data.ingest import check_out, plan_ingest
from mvgan.distributed.ingest import ingest
from mvgan.distributed.resources import session
from mvgan.storage.holder import held
from mvgan.storage.uri import open_store


@dataclass(frozen=True)
class Flags(Settings):
    """Flags of this verb."""

    videos: str = tyro.MISSING
    """Folder or s3:// prefix: videos at any depth, or folders of numbered frames (then give --fps)."""
    out: str = tyro.MISSING
    """Folder or s3:// prefix for the shards and their manifest.json."""
    list: str | None = None
    """Text file that selects a split: one path or name per line."""


def run(flags: Flags) -> None:
    """Make the shard set, or with --dry-run say what would be made."""
    plan = plan_ingest(flags.videos, flags.out, flags.settings, flags.list)
    check_out(plan)  # before a cluster starts, and before anything is written to a set of others
    if flags.dry_run:
        print_ingest(plan)
        return
    with held(open_store(flags.out), "ingest"), session(flags.resources):
        ingest(flags.videos, flags.out, flags.settings, flags.list)


if __name__ == "__main__":
    main(run, Flags, "Turn videos into shards: centre square crops at training resolution, as H.264 pieces in Parquet files.")
