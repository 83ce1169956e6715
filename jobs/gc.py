"""Remove what was begun and never committed."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs._cli import main
from mvgan.config import InputError
from mvgan.data.shards import MANIFEST, PLAN
from mvgan.data.unused import unnamed_shards
from mvgan.evaluation.subject import KEPT
from mvgan.storage.gc import Leftover, collect_objects, collect_run, collect_unfinished
from mvgan.storage.holder import CLEANING, held, refuse_held
from mvgan.storage.run import RunFolder, read_run
from mvgan.storage.uri import Store, open_store
from mvgan.train.kept import FOLDER


SILENCE_S = 120.0
"""How long a driver on another machine is watched: removing can wait until an outage of its network has passed."""


@dataclass(frozen=True)
class Flags:
    """Flags of this verb."""

    run: str | None = None
    """Run folder or s3:// prefix; a shard set in its folder `data` is cleaned too."""
    data: str | None = None
    """Shard set, in place of --run."""
    older_than_h: float = 24.0
    """On S3: abort uploads in parts that began so many hours ago, by the server's clock; younger ones may be alive."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say what would be removed, and touch nothing."""


def run(flags: Flags) -> None:
    """Remove what is left over, and print it."""
    if flags.older_than_h < 0:
        raise InputError(f"--older-than-h is {flags.older_than_h}; give hours from 0 on")
    if flags.run and not flags.data:
        folder = read_run(flags.run)
        _print(_clean(folder.store, "data", folder, flags), folder.uri, flags.dry_run)
    elif flags.data and not flags.run:
        store = open_store(flags.data)
        if not _is_shard_set(store):
            raise InputError(f"{store.uri} holds no shard set ({MANIFEST} and {PLAN} are missing); give the --out of an ingest")
        _print(_clean(store, "", None, flags), store.uri, flags.dry_run)
    else:
        raise InputError("give either --run, a run's folder, or --data, a shard set")


def _clean(store: Store, data: str, folder: RunFolder | None, flags: Flags) -> list[Leftover]:
    """Clean `store`, which is the run `folder` if there is one, with the shard set in its folder `data`."""
    found: list[Leftover] = []
    shards = store.at(data)
    with ExitStack() as stack:
        for place in {store, shards} if _is_shard_set(shards) else {store}:
            if flags.dry_run:
                refuse_held(place, SILENCE_S)
            else:
                stack.enter_context(held(place, CLEANING, SILENCE_S))
        if folder:
            found += collect_run(folder, flags.dry_run)
            found += collect_objects(store, "weights kept for an evaluation", store.list(f"{KEPT}/"), flags.dry_run)
            if folder.commits("codes").records():  # until then the same command takes what is kept
                found += collect_objects(store, "kept for stage 2, which is complete", store.list(f"{FOLDER}/"), flags.dry_run)
        if _is_shard_set(shards):
            unnamed = {f"{data}/{path}".lstrip("/"): size for path, size in unnamed_shards(shards).items()}
            found += collect_objects(store, "shard of no record", unnamed, flags.dry_run)
        return found + collect_unfinished(store, flags.older_than_h * 3600, flags.dry_run)


def _is_shard_set(store: Store) -> bool:
    return store.exists(MANIFEST) or store.exists(PLAN)


def _print(found: list[Leftover], uri: str, dry_run: bool) -> None:
    done = "would remove" if dry_run else "removed"
    for item in found:
        print(f"{done} {item.num_bytes} bytes: {item.path} ({item.what})")
    print(f"gc: {done} {len(found)} leftovers of {sum(item.num_bytes for item in found)} bytes from {uri}")


if __name__ == "__main__":
    main(
        run,
        Flags,
        "Remove what killed drivers left in a run or a shard set: data of no commit, temporary files, unfinished uploads, "
        "shards of no record, what an evaluation or a finished stage 2 kept for itself. Nothing that a commit or a manifest names is "
        "touched, and nothing while a driver is at work there.",
    )
