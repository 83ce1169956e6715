"""One of WORLD workers that trains a stage of a run until it is killed: `python elastic_workers.py RANK WORLD RUN STAGE EPOCH STEPS SEEN`.

Every logical shard's part of each batch is kept as SEEN/<images>-<shard>. Run as a script for each gloo worker, and
imported by the test for what one process sees.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from mvgan.data.shards import ShardSet
from mvgan.storage.run import read_run
from mvgan.train.ranks import Ranks
from mvgan.train.session import Batches, Worker, local_batches, train_worker
from tests.unit.train.leave import leave


KILLED = 9


def kept(batches: Batches, seen: Path, steps: int | None) -> Batches:
    """The same batches, kept in `seen`; instead of the one after `steps` the process ends."""

    def watched(images: int, ranks: Ranks) -> Iterator[Tensor]:
        for step, batch in enumerate(batches(images, ranks)):
            if step == steps:
                sys.exit(KILLED)
            for place, shard in enumerate(ranks.hosted):
                data = batch[place * ranks.group : (place + 1) * ranks.group].numpy().tobytes()
                file = seen / f"{images + step * ranks.batch:09d}-{shard:03d}"
                if file.exists() and file.read_bytes() != data:
                    raise AssertionError(f"{file.name} was another sample before")
                part = seen.with_name(f"{seen.name}.{file.name}.part")  # a killed process leaves no file of a part of the data
                part.write_bytes(data)
                part.replace(file)
            yield batch

    return watched


def train(rank: int, world: int, uri: str, stage: str, epoch: int, steps: int | None, seen: Path) -> None:
    """Train as worker `rank`."""
    folder = read_run(uri)
    batches = kept(local_batches(ShardSet.open(folder.data), folder.run, stage), seen, steps)
    train_worker(folder, stage, epoch, batches, Worker(rank, world, say=lambda line: None))


def main(rank: int, world: int, uri: str, stage: str, epoch: int, steps: int, seen: Path) -> None:
    """Train as one of `world` processes; steps 0: to the end."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{seen}.rendezvous-{epoch}", rank=rank, world_size=world)
    status = 0
    try:
        train(rank, world, uri, stage, epoch, steps or None, seen)
    except SystemExit:  # by `kept`
        status = KILLED
    if world > 1:
        leave(status)
    sys.exit(status)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6]), Path(sys.argv[7]))
