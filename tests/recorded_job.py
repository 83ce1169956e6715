"""A verb that keeps what its workers are given: `python -m tests.recorded_job GROW_S SETTLE_S VERB ...`.

Each worker's batches go to the folder `seen` of the run, as `kept` has them. GROW_S and SETTLE_S are the constants of mvgan/distributed
of these names.
"""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.unit.train.elastic_workers import kept


def record(worker: Callable[[dict[str, Any]], None], config: dict[str, Any]) -> None:
    """Do what `worker` does, in its process."""
    from mvgan.distributed import trainer

    streamed, seen = trainer.streamed_batches, Path(config["run"], "seen")
    seen.mkdir(exist_ok=True)
    trainer.streamed_batches = lambda stream: kept(streamed(stream), seen, None)
    worker(config)


def recorded_worker(config: dict[str, Any]) -> None:
    """What Ray Train runs instead of mvgan's worker."""
    from mvgan.distributed import trainer

    record(trainer._worker, config)


def main(grow_s: float, settle_s: float, verb: str, arguments: list[str]) -> None:
    """Run the verb."""
    from mvgan.distributed import elastic, resources, trainer

    trainer._worker = recorded_worker
    elastic.GROW_S, resources.SETTLE_S = grow_s, settle_s
    sys.argv = [verb, *arguments]
    runpy.run_module(f"jobs.{verb}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    from tests import recorded_job

    recorded_job.main(float(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:])
