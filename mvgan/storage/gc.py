"""Removing what was begun and never committed: what a killed driver leaves behind.

Nothing that a valid record names is touched. The caller holds the folder (`mvgan.storage.holder`), so that no driver is
at work there.
"""

import os
import socket
from dataclasses import dataclass

from mvgan.config import STAGES
from mvgan.storage.holder import FOLDER
from mvgan.storage.local import LocalStore
from mvgan.storage.run import RunFolder
from mvgan.storage.s3 import S3Store
from mvgan.storage.store import Store


@dataclass(frozen=True)
class Leftover:
    """Something that nothing names; `path` is below the folder that was searched."""

    what: str
    path: str
    num_bytes: int


def collect_run(folder: RunFolder, dry_run: bool) -> list[Leftover]:
    """Remove, or with `dry_run` only find, the data and records of all stages that count as no commit."""
    found = []
    for stage in STAGES[1:]:
        if folder.home(stage) != folder.store:
            continue  # another run's, where its own driver may be at work
        commits = folder.commits(stage)
        paths = commits.uncommitted() if dry_run else commits.remove_uncommitted({"gc": socket.gethostname(), "pid": os.getpid()})
        found += [Leftover("of no commit", f"{stage}/{path}", size) for path, size in paths.items()]
    return found


def collect_objects(store: Store, what: str, paths: dict[str, int], dry_run: bool) -> list[Leftover]:
    """Remove, or with `dry_run` only tell, the objects `paths`, which are `what`."""
    for path in () if dry_run else paths:
        store.delete(path)
    return [Leftover(what, path, size) for path, size in paths.items()]


def collect_unfinished(store: Store, older_than_s: float, dry_run: bool) -> list[Leftover]:
    """Remove, or only find, what writes that were cut off left below `store`.

    On S3 the uploads in parts that began `older_than_s` ago or before, by the server's clock: a younger one may be
    alive. On a local disk the temporary files.
    """
    if isinstance(store, LocalStore):
        # The caller's own beat is written all the while.
        paths = {path: size for path, size in store.temporaries().items() if FOLDER not in path.split("/")[:-1]}
        return collect_objects(store, "temporary file", paths, dry_run)
    assert isinstance(store, S3Store)
    uploads = [upload for upload in store.uploads() if upload.age_s >= older_than_s]
    for upload in () if dry_run else uploads:
        store.abort(upload)
    return [Leftover("unfinished upload", upload.path, upload.num_bytes) for upload in uploads]
