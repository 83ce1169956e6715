"""The Ray cluster of a verb: the one it was submitted to, or one of its own on this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from mvgan.config import InputError, Resources


DECODE_CPUS = 0.5
"""CPUs of one decoding task."""


@contextmanager
def session(resources: Resources) -> Iterator[None]:
    """Connect to the cluster named by RAY_ADDRESS, or start one on this machine and end it afterwards."""
    if not ray.is_initialized():
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        else:
            ray.init(
                address="local",
                # Logical CPUs: one a worker, and the machine's own for decoding and tasks beside them.
                num_cpus=resources.workers + max(2, os.cpu_count() or 1),
                object_store_memory=_object_store_bytes(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        for name in ("ray.data", "ray.train"):
            logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _object_store_bytes() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(2 * 1024**3, memory // 5)


def check_room(resources: Resources) -> None:
    """Raise InputError when the cluster has no CPU left for decoding beside the workers: training would hang."""
    total = ray.cluster_resources()
    cpus, gpus = total.get("CPU", 0), total.get("GPU", 0)
    needed = resources.workers * (1 + DECODE_CPUS)
    if cpus < needed:
        raise InputError(
            f"{resources.workers} workers and their decoding need {needed:g} CPUs, the cluster has {cpus:g}; lower --workers or add nodes"
        )
    if resources.gpu and gpus < resources.workers:
        raise InputError(
            f"{resources.workers} workers with --gpu need as many GPUs, the cluster has {gpus:g}; lower --workers or add nodes"
        )


def worker_threads(workers_here: int) -> int:
    """CPU threads of a worker on a node with `workers_here` of them; one core is left to decoding and to Ray.

    Threads that wait for each other at every layer crawl as soon as another process takes one of their cores: on 2 cores
    a step with two threads took 10 times as long beside other work, one with one thread no longer.
    """
    return max(1, (len(os.sched_getaffinity(0)) - 1) // workers_here)
