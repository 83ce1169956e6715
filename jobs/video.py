"""Stage 3: train the latent code generator."""

from dataclasses import dataclass

import tyro

from jobs._cli import Settings, main
from jobs._plan import print_video
from mvgan.data.shards import ShardSet
from mvgan.distributed.resources import session
from mvgan.distributed.trainer import train_stage
from mvgan.storage.run import check_run, drive, read_run
from mvgan.train.session import check_data, check_workers


@dataclass(frozen=True)
class Flags(Settings):
    """Flags of this verb."""

    run: str = tyro.MISSING
    """Folder of a run whose stage `codes` has finished; its settings are the defaults here."""


def run(flags: Flags) -> None:
    """Train, or with --dry-run say what would be trained."""
    before = read_run(flags.run)
    shards = ShardSet.open(before.data)
    check_data(shards, flags.settings, "video")
    check_workers(flags.settings, "video", flags.resources.workers)
    before.require("codes")
    if flags.dry_run:
        check_run(flags.run, flags.settings, before.data)
        print_video(flags.settings, len(shards))
        return
    with drive(flags.run, flags.settings, before.data, "video") as folder, session(flags.resources):
        train_stage(folder, "video", flags.resources)
    print(f"{folder.uri}/export/latent.safetensors")


if __name__ == "__main__":
    main(run, Flags, "Stage 3: train the LSTM that walks w along the motion codes. The same command again goes on from the last commit.")
