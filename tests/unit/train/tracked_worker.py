"""A process that trains stage `pairs` of a run with a tracker, and stands still after some steps until it is killed.

Arguments: the run's folder, the tracker, the steps.
"""

import itertools
import sys
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from mvgan.data.shards import ShardSet
from mvgan.storage.run import read_run
from mvgan.train.ranks import Ranks
from mvgan.train.session import Worker, local_batches, train_worker


def main(uri: str, track: str, steps: int) -> None:
    torch.set_num_threads(1)
    folder = read_run(uri)
    batches = local_batches(ShardSet.open(folder.data), folder.run, "pairs")

    def until(images: int, ranks: Ranks) -> Iterator[Tensor]:
        yield from itertools.islice(batches(images, ranks), steps)
        threading.Event().wait()

    train_worker(folder, "pairs", folder.commits("pairs").claim({}), until, Worker(track=track))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
