"""Stage 2 on Ray: a task per latent sample and one per measure; the results are folded in their order and committed."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ray
import torch
from torch import Tensor

from mvgan.config import ANOTHER_NAME, Resources
from mvgan.distributed.errors import end_with
from mvgan.distributed.resources import RoomLost, check_room
from mvgan.motion.factorize import Sample, combine
from mvgan.storage.run import RunFolder, read_run
from mvgan.train import codes as stage
from mvgan.train.export import export_codes, export_weights


POLL_S = 5.0
"""Time between two looks whether the cluster still has room for the tasks."""

IN_FLIGHT = 64
"""Most tasks submitted at once, which bounds the results that wait to be folded."""


def find_codes(folder: RunFolder, resources: Resources) -> None:
    """Find the motion codes of the exported pair generator; does nothing when they are committed."""
    if folder.complete("codes") is None:
        check_room(resources)
        export_weights(folder, "pairs")  # codes.select may have changed since stage 1 ended
        epoch = folder.commits("codes").claim({"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()})
        samples: list[Sample] = _map(_factorize, [(folder.uri, index) for index in range(folder.run.latents)], resources, "latents")
        tensors, summary = combine(samples, folder.run)
        measures = _measures(folder, tensors, resources)
        files = stage.commit_files(folder, tensors, summary, measures)
        folder.commits("codes").write(folder.run.latents, epoch, files, {"complete": True})
    export_codes(folder)


def _measures(folder: RunFolder, tensors: dict[str, Tensor], resources: Resources) -> dict[stage.Measure, dict[str, Any]]:
    """Edit ratios of each method and direction; prints them."""
    found = stage.to_measure(tensors, folder.run)
    results = _map(_measure, [(folder.uri, codes, direction) for (_, direction), codes in found.items()], resources, "edit measures")
    for (method, direction), result in zip(found, results, strict=True):
        print(
            f"codes: {method} {direction}: edited over kept frame, median {result['median']:.2f}, worst {result['worst']:.2f}", flush=True
        )
    return dict(zip(found, results, strict=True))


def _factorize(run_uri: str, index: int) -> Sample:
    """The task of one latent sample."""
    return stage.factorize(read_run(run_uri), index, _device())


def _measure(run_uri: str, codes: Tensor, direction: str) -> dict[str, Any]:
    """The task of one method and direction."""
    return stage.measure(read_run(run_uri), codes, direction, _device())


def _device() -> torch.device:
    """Where a task computes: on its GPU, or on its one CPU."""
    torch.set_num_threads(1)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _map(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], resources: Resources, unit: str) -> list[Any]:
    """Results of one task per tuple of arguments, in their order whatever the order of arrival; prints progress."""
    # max_calls 0: a GPU task that starts a process each time costs 0.8 s.
    options: dict[str, Any] = {"num_gpus": 1, "max_calls": 0} if resources.gpu else {}
    remote = ray.remote(num_cpus=1, **options)(function)
    results: dict[int, Any] = {}
    lost = RoomLost(replace(resources, workers=1))  # one task after another is enough to go on
    waiting: dict[Any, int] = {}
    started, submitted = time.monotonic(), 0
    while len(results) < len(arguments):
        while submitted < len(arguments) and len(waiting) < IN_FLIGHT:
            waiting[remote.remote(*arguments[submitted])] = submitted
            submitted += 1
        ended, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_S)
        if not ended:
            lost.check()
            continue
        (done,) = ended
        lost.since = 0.0
        try:
            results[waiting.pop(done)] = ray.get(done)
        except ray.exceptions.RayError as error:
            end_with(error, "codes", f"lower --codes.chunk, or --resolution {ANOTHER_NAME}")
        elapsed_s = time.monotonic() - started
        eta_s = elapsed_s / len(results) * (len(arguments) - len(results))
        print(f"codes: {len(results)}/{len(arguments)} {unit}, {elapsed_s:.0f} s, ETA {eta_s:.0f} s", flush=True)
    return [results[index] for index in range(len(arguments))]
