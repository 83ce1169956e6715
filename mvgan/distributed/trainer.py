"""Training a stage with Ray Train: one worker, or many with DDP."""

import os
import socket
import tempfile
import time
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError

from mvgan.config import Resources
from mvgan.distributed.console import console
from mvgan.distributed.data import WindowStreams, streamed_batches
from mvgan.distributed.errors import answer_non_finite, raise_lasting
from mvgan.distributed.resources import check_room, worker_threads
from mvgan.storage.run import RunFolder, read_run
from mvgan.train.export import export_weights
from mvgan.train.guard import Rollbacks
from mvgan.train.session import Worker, train_worker


def train_stage(folder: RunFolder, stage: str, resources: Resources) -> None:
    """Train `stage` to its end, from its newest commit on; does nothing when it has ended."""
    if folder.complete(stage) is None:
        check_room(resources)
        epoch = folder.commits(stage).claim({"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()})
        _fit(folder, stage, epoch, resources)
    export_weights(folder, stage)


def _fit(folder: RunFolder, stage: str, epoch: int, resources: Resources) -> None:
    """Train, and start the workers again from the newest commit when some of them fail."""
    with console(folder.store, f"{stage}-{epoch:05d}") as out, tempfile.TemporaryDirectory(prefix="mvgan-ray-") as notes:
        config = {"run": folder.uri, "stage": stage, "epoch": epoch, "threads": resources.threads, "console": out}
        config["max_missed_commits"] = resources.max_missed_commits
        rollbacks = Rollbacks(folder.commits(stage), stage)
        for attempt in range(resources.max_failures + 1):
            try:
                _trainer(folder, stage, f"{notes}/{attempt}", resources, config).fit()
                break
            except TrainingFailedError as error:
                raise_lasting(error)
                answer_non_finite(error, rollbacks, retry=attempt < resources.max_failures)
                if attempt == resources.max_failures:
                    raise
                out.say(f"{stage}: workers failed, starting them again from the newest commit: {_last_line(error)}")


def _trainer(folder: RunFolder, stage: str, notes: str, resources: Resources, config: dict[str, Any]) -> TorchTrainer:
    return TorchTrainer(
        _worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if resources.gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=resources.workers, use_gpu=resources.gpu, resources_per_worker={"CPU": 1}),
        # Ray is given no checkpoint, so the workers never ask for the folder of its notes: it can be one of the driver's
        # machine, new for each start. On S3 it would go through pyarrow, which gives up after three tries. Ray would also
        # retry what cannot heal, so the retries are in `_fit`.
        run_config=RunConfig(name=stage, storage_path=notes, failure_config=FailureConfig(max_failures=0)),
        datasets={"train": ray.data.range(1)},
        dataset_config=WindowStreams(folder.uri, stage),
    )


def _worker(config: dict[str, Any]) -> None:
    out = config["console"]
    out.forward_logging()
    folder = read_run(config["run"])
    context = ray.train.get_context()
    torch.set_num_threads(config["threads"] or worker_threads(context.get_local_world_size()))
    stream: Any = ray.train.get_dataset_shard("train")  # what WindowStreams gives
    batches = streamed_batches(stream)
    place = Worker(context.get_world_rank(), context.get_world_size(), get_device(), out.say, config["max_missed_commits"])
    train_worker(folder, config["stage"], config["epoch"], batches, place)


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
