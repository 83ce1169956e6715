"""Training a stage with Ray Train: one worker, or many with DDP, started again when they fail."""

import itertools
import os
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError

from mvgan.config import ANOTHER_NAME, Ended, Resources
from mvgan.distributed.console import Console, console
from mvgan.distributed.data import WindowStreams, streamed_batches
from mvgan.distributed.elastic import Changed, Elastic
from mvgan.distributed.errors import LOWER, Failure, Retries, answer_non_finite, failure_of, has_stopped, raise_lasting
from mvgan.distributed.metrics import exported
from mvgan.distributed.resources import check_cluster, this_node, worker_threads, workers_here
from mvgan.distributed.stop import raise_asked
from mvgan.distributed.watchdog import Hung, Room, began, bound, killed_for_memory, limit_ray_train, lost_hosts, run_once, tell_hang
from mvgan.storage.run import RunFolder, read_run
from mvgan.train.export import export_weights
from mvgan.train.guard import Rollbacks
from mvgan.train.session import Worker, train_worker
from mvgan.train.watchdog import TELL_S, Watchdog


PATIENCE = 2
"""What a step waits for the storage is bounded by `hang_s` over this, so that the watchdog does not take it for one that hangs."""


@dataclass(frozen=True)
class Beside:
    """How a training stands to others on the cluster; by itself it is alone there."""

    trainings: int = 1
    """How many with the same resources are at work at once, this one included."""
    placed: Callable[[Room], None] = lambda room: None
    """Called whenever all workers have begun, with the room that they hold."""


def train_stage(folder: RunFolder, stage: str, resources: Resources, beside: Beside = Beside()) -> None:
    """Train `stage` to its end, from its newest commit on; does nothing when it has ended.

    Raises InputError for a user's mistake, Ended when the workers cannot begin (NoRoom), fail too often, or have committed at a Stop.
    """
    if folder.complete(stage) is None:
        check_cluster(resources)
        _fit(folder, stage, resources, beside)
    export_weights(folder, stage)


def _fit(folder: RunFolder, stage: str, resources: Resources, beside: Beside) -> None:
    """Train, and start the workers again from the newest commit when some of them fail, or the cluster has changed.

    Each start claims an epoch: a worker of the one before that was only thought lost can then commit nothing any more.
    """
    epoch = _claim(folder, stage)
    retries, rollbacks, elastic = Retries(resources.max_failures), Rollbacks(folder.commits(stage), stage), Elastic(resources)
    with (
        exported(folder.uri, stage) as metrics,
        console(folder.store, f"{stage}-{epoch:05d}", metrics.tell) as out,
        tempfile.TemporaryDirectory(prefix="mvgan-ray-") as notes,
    ):
        for attempt in itertools.count():
            try:
                with elastic.start() as now:
                    if now.workers < resources.workers:
                        out.say(f"{stage}: begins with {now.workers} of {resources.workers} workers, as the cluster has no room for more")
                    trainer = _trainer(folder, stage, epoch, attempt, now, beside.trainings, out, notes)
                    bound(trainer.fit, stage, attempt, now, out, beside.placed, elastic.look)
                break
            except Changed as change:
                words = str(change)
            except (TrainingFailedError, ray.exceptions.RayError) as error:  # the latter when Ray's own actor of the training dies
                if elastic.why and has_stopped(error):
                    words = f"{elastic.why}; it has committed"
                else:
                    words = _answer(error, folder, stage, attempt, out, retries, rollbacks)
            raise_asked()  # what a change or a failure went before comes again only AGAIN_S later
            out.say(f"{stage}: {words}; starting the workers again from the newest commit")
            epoch = _claim(folder, stage, epoch)


def _answer(error: BaseException, folder: RunFolder, stage: str, attempt: int, out: Console, retries: Retries, rollbacks: Rollbacks) -> str:
    """Why the workers failed, where another try may mend it. Raises what ends the stage."""
    raise_lasting(error)
    answer_non_finite(error, rollbacks)
    hung = [note.rank for note in out.noted() if isinstance(note, Hung) and note.attempt == attempt]
    lost = lost_hosts(out, attempt)
    failure = failure_of(error, hung, killed_for_memory(out, attempt), lost)
    if not retries.again(failure, _newest(folder, stage)):
        if failure.unforeseen:
            raise error
        raise Ended(_ending(stage, failure, retries)) from None
    return failure.words


def _claim(folder: RunFolder, stage: str, after: int | None = None) -> int:
    return folder.commits(stage).claim({"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}, after)


def _newest(folder: RunFolder, stage: str) -> int:
    return max((commit.images for commit in folder.commits(stage).records()), default=0)


def _ending(stage: str, failure: Failure, retries: Retries) -> str:
    """The line that ends a stage whose workers fail again and again."""
    if failure.memory:
        return (
            f"{stage}: {failure.words}; lower {LOWER[stage]} {ANOTHER_NAME}, or train with fewer --workers on each node; "
            "the same command goes on from the last commit"
        )
    return (
        f"{stage}: {failure.words}; {retries.failures} failures without a commit in between; "
        "see the run's logs/; the same command goes on from the last commit"
    )


def _trainer(
    folder: RunFolder, stage: str, epoch: int, attempt: int, resources: Resources, trainings: int, out: Console, notes: str
) -> TorchTrainer:
    limit_ray_train(resources.hang_s + TELL_S, resources.start_s)
    config = {
        "run": folder.uri, "stage": stage, "epoch": epoch, "attempt": attempt, "resources": resources, "trainings": trainings,
        "console": out,
    }  # fmt: skip
    return TorchTrainer(
        _worker,
        train_loop_config=config,
        # The watchdog comes first: it keeps the stacks of what hangs.
        torch_config=TorchConfig(backend="nccl" if resources.gpu else "gloo", timeout_s=round(resources.hang_s + TELL_S)),
        scaling_config=ScalingConfig(num_workers=resources.workers, use_gpu=resources.gpu, resources_per_worker={"CPU": 1}),
        # Ray is given no checkpoint, so the workers never ask for the folder of its notes: it can be one of the driver's
        # machine, new for each start. On S3 it would go through pyarrow, which gives up after three tries. Ray would also
        # retry what cannot heal, so the retries are in `_fit`.
        run_config=run_once(f"{epoch:05d}-{attempt}", attempt, out, notes),
        datasets={"train": ray.data.range(1)},
        dataset_config=WindowStreams(folder.uri, stage, trainings),
    )


def _worker(config: dict[str, Any]) -> None:
    out, stage, resources = config["console"], config["stage"], config["resources"]
    context = ray.train.get_context()
    rank = context.get_world_rank()
    began(out, config["attempt"], rank)
    out.forward_logging()
    folder = read_run(config["run"])
    here = workers_here(this_node(), context.get_local_world_size(), resources, config["trainings"])
    torch.set_num_threads(resources.threads or worker_threads(here))
    name = f"{stage}-{config['epoch']:05d}"
    with Watchdog(resources.hang_s, tell_hang(folder.store, out, name, config["attempt"], rank, resources.hang_s)) as watchdog:
        stream: Any = ray.train.get_dataset_shard("train")  # what WindowStreams gives
        batches = watchdog.watched(streamed_batches(stream))
        patience_s, world = resources.hang_s / PATIENCE, context.get_world_size()
        place = Worker(
            rank, world, get_device(), out.say, resources.max_missed_commits, patience_s, resources.track, out.tell,
            out.stop_asked(),
        )  # fmt: skip
        train_worker(folder, stage, config["epoch"], batches, place)
