"""Stage 1: train MotionStyleGAN on frame pairs."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs._cli import Place, Settings, main
from jobs._plan import print_pairs
from mvgan.data.shards import ShardSet
from mvgan.distributed.resources import session
from mvgan.distributed.trainer import train_stage
from mvgan.storage.run import check_run, drive
from mvgan.train.initial import check_initial
from mvgan.train.session import check_data, check_workers


@dataclass(frozen=True)
class Flags(Settings):
    """Flags of this verb."""

    data: str = tyro.MISSING
    """Shard set that `ingest` made: a folder or s3:// prefix."""
    place: Annotated[Place, tyro.conf.arg(name="")] = field(default_factory=Place)


def run(flags: Flags) -> None:
    """Train, or with --dry-run say what would be trained."""
    shards = ShardSet.open(flags.data)
    check_data(shards, flags.settings, "pairs")
    check_workers(flags.settings, "pairs", flags.resources.workers)
    uri = flags.place.uri(flags.preset)
    taken = check_initial(flags.settings, uri)
    if flags.dry_run:
        check_run(uri, flags.settings, shards.uri)
        print_pairs(flags.settings, taken)
        return
    with drive(uri, flags.settings, shards.uri, "pairs") as folder, session(flags.resources):
        train_stage(folder, "pairs", flags.resources)
    print(f"{folder.uri}/export/generator.safetensors")


if __name__ == "__main__":
    main(run, Flags, "Stage 1: train the generator of frame pairs. The same command again goes on from the last commit.")
