"""Stage 2 on Ray: a task per latent, one that makes codes of them in their order, and one per measure; then the commit."""

import os
import socket
import time
from typing import Any

from torch import Tensor

from mvgan.config import ANOTHER_NAME, Resources
from mvgan.distributed.resources import check_room
from mvgan.distributed.tasks import run_tasks, task_device
from mvgan.storage.run import RunFolder, read_run
from mvgan.train import codes as stage
from mvgan.train.export import export_codes, export_weights
from mvgan.train.kept import forget


LOWER = f"lower --codes.chunk, or --resolution {ANOTHER_NAME}"
"""What to do when a task needs more memory than there is."""


def find_codes(folder: RunFolder, resources: Resources) -> None:
    """Find the motion codes of the exported pair generator; does nothing when they are committed."""
    if folder.complete("codes") is None:
        check_room(resources)
        export_weights(folder, "pairs")  # codes.select may have changed since stage 1 ended
        epoch = folder.commits("codes").claim({"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()})
        factorize_latents(folder, resources)
        ((tensors, summary),) = run_tasks(_find, [(folder.uri,)], resources, "codes", "sets of codes", LOWER)
        for line in summary["warnings"]:
            print(f"codes: {line}", flush=True)
        measures = _measures(folder, tensors, resources)
        files = stage.commit_files(folder, tensors, summary, measures)
        folder.commits("codes").write(folder.run.latents, epoch, files, {"complete": True})
    export_codes(folder)
    forget(folder)


def factorize_latents(folder: RunFolder, resources: Resources) -> None:
    """Have all latents factorized and kept; says how many were known from before."""
    arguments = [(folder.uri, index) for index in range(folder.run.latents)]
    known = 0
    for was_known, notes in run_tasks(_factorize, arguments, resources, "codes", "latents", LOWER):
        for note in notes:
            print(f"codes: {note}", flush=True)
        known += was_known
    if known:
        print(f"codes: {known} of {len(arguments)} latents were known from before", flush=True)


def _measures(folder: RunFolder, tensors: dict[str, Tensor], resources: Resources) -> dict[stage.Measure, dict[str, Any]]:
    """Edit ratios of each method and direction; prints them."""
    found = stage.to_measure(tensors)
    arguments = [(folder.uri, codes, direction) for (_, direction), codes in found.items()]
    results = list(run_tasks(_measure, arguments, resources, "codes", "edit measures", LOWER))
    for (method, direction), result in zip(found, results, strict=True):
        print(
            f"codes: {method} {direction}: edited over kept frame, median {result['median']:.2f}, worst {result['worst']:.2f}", flush=True
        )
    return dict(zip(found, results, strict=True))


def _factorize(run_uri: str, index: int) -> tuple[bool, tuple[str, ...]]:
    """The task of one latent: whether all of it was known from before, and lines on what was damaged. What it finds is kept."""
    found = stage.factorize(read_run(run_uri), index, task_device())
    return found.known, found.notes


def _find(run_uri: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The task that makes codes of all latents."""
    return stage.find(read_run(run_uri), task_device())


def _measure(run_uri: str, codes: Tensor, direction: str) -> dict[str, Any]:
    """The task of one method and direction."""
    return stage.measure(read_run(run_uri), codes, direction, task_device())
