"""Many independent tasks on Ray, whose results are put in the order of the tasks."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray
import torch

from mvgan.config import Resources
from mvgan.distributed.errors import end_with
from mvgan.distributed.resources import RoomLost
from mvgan.distributed.stop import raise_asked


POLL_S = 5.0
"""Time between two looks whether the cluster still has room for the tasks."""

IN_FLIGHT = 64
"""Most tasks submitted at once, and that many times AHEAD most results that wait for one before them."""

AHEAD = 4

TELL_S = 1.0
"""Least time between two lines of progress, but for the last."""

ALL_VISIBLE = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"
"""By this variable Ray leaves all GPUs of a node visible to a process, rather than those of its call alone."""


def run_tasks(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], resources: Resources, verb: str, unit: str, lower: str
) -> Iterator[Any]:
    """Results of one task per tuple of arguments, in their order whatever the order of arrival; prints progress as `verb`.

    Raises Ended where a task fails for good, with `lower` as what to do when it ran out of memory, and the stop that was noted meanwhile.
    """
    remote = ray.remote(num_cpus=1, **_options(resources))(_call)
    if resources.gpu and resources.gpu_share < 1:
        lower = f"raise --gpu-share, {lower}"
    results: dict[int, Any] = {}
    lost = RoomLost(replace(resources, workers=1))  # one task after another is enough to go on
    waiting: dict[Any, int] = {}
    started, told, submitted, given = time.monotonic(), 0.0, 0, 0
    while given < len(arguments):
        raise_asked()
        while submitted < min(len(arguments), given + AHEAD * IN_FLIGHT) and len(waiting) < IN_FLIGHT:
            waiting[remote.remote(function, *arguments[submitted])] = submitted
            submitted += 1
        ended, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_S)
        if not ended:
            lost.check()
            continue
        (done,) = ended
        lost.forget()
        try:
            results[waiting.pop(done)] = ray.get(done)
        except ray.exceptions.RayError as error:
            end_with(error, verb, lower)
        finished, elapsed_s = given + len(results), time.monotonic() - started
        if finished == len(arguments) or elapsed_s >= told + TELL_S:
            told, eta_s = elapsed_s, elapsed_s / finished * (len(arguments) - finished)
            print(f"{verb}: {finished}/{len(arguments)} {unit}, {elapsed_s:.0f} s, ETA {eta_s:.0f} s", flush=True)
        while given in results:
            yield results.pop(given)
            given += 1


def task_device() -> torch.device:
    """Where a task computes: on the GPU that Ray gave this call, or on its one CPU."""
    torch.set_num_threads(1)
    given = ray.get_gpu_ids()
    if not given:
        return torch.device("cpu")
    # Ray tells a GPU by its place on the node, or, where the node was given some of them, by its name among those.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return torch.device("cuda", visible.split(",").index(str(given[0])) if visible else int(given[0]))


def _options(resources: Resources) -> dict[str, Any]:
    """What a task asks of Ray beside its CPU.

    A GPU task that starts a process each time costs 0.8 s, so with max_calls 0 a process stays for the next one, which may have
    another GPU. CUDA, once started, would not see that one, were it not for ALL_VISIBLE.
    """
    anywhere = {"scheduling_strategy": "DEFAULT"}  # else tasks of a trial stay within what Ray Tune has set aside for its leader
    if not resources.gpu:
        return anywhere
    return anywhere | {"num_gpus": resources.gpu_share, "max_calls": 0, "runtime_env": {"env_vars": {ALL_VISIBLE: "1"}}}


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """What each task runs: `function`, whose GPU memory is then given back, as the process stays."""
    try:
        return function(*arguments)
    finally:
        torch.cuda.empty_cache()
