"""One worker of a group that trains small stages on batches made here: `python two_workers.py RANK WORLD FOLDER`.

Run as a script for each gloo worker, and imported by the test for what one process gives.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mvgan.config import Network, Pairs, Run, Video
from mvgan.nets.generator import Generator
from mvgan.train import video
from mvgan.train.pairs import PairStage
from mvgan.train.ranks import Ranks
from mvgan.train.state import Progress
from mvgan.train.video import VideoStage
from tests.unit.train.leave import leave


STEPS = 5
GROUP = 2
NETWORK = Network(z_dim=16, w_dim=16, mapping_layers=2, channel_base=128, channel_max=16, precision="fp32")
RUN = Run(resolution=16, num_codes=3, network=NETWORK, seed=7)
PAIRS = Pairs(group=GROUP, r1_every=2, pl_every=2, r1_gamma=1.0, pl_weight=2.0)
VIDEO = Video(group=GROUP, num_frames=4, hidden=16, g_steps=2, d_channels=4, d_scales=2, lr=1e-3)
ADA = {"augment": "ada", "ada_interval": 2, "ada_kimg": 0.02, "ada_target": 0.1}

ALL = {"d_i": True, "drift_weight": 3.0, "reach_weight": 2.0, "residual": 1.0, "frames_at_once": 5}
CASES = {
    "pairs, 2 shards": ("pairs", 2, {}),
    "pairs, 3 shards": ("pairs", 3, {}),
    "pairs ada, 2 shards": ("pairs", 2, ADA),
    "pairs ada, 3 shards": ("pairs", 3, ADA),
    "pairs in parts, 5 shards": ("pairs", 5, {"accumulate": 2}),
    "video ralsgan, 2 shards": ("video", 2, {"loss": "ralsgan"}),
    "video ralsgan, 3 shards": ("video", 3, {"loss": "ralsgan"}),
    "video, all discriminators and terms, 3 shards": ("video", 3, ALL),
    "video log, 2 shards": ("video", 2, {"loss": "log"}),
    "video log, 3 shards": ("video", 3, {"loss": "log", "saturating": False, "first": "former"}),
}
"""Stage, logical shards, settings."""


@contextlib.contextmanager
def double_precision(stage: str) -> Iterator[None]:
    """Stage 3 in float64: its gradient penalty jumps where a rounded activation changes sign. Stage 1 stays as it is."""
    if stage == "pairs":
        yield
        return
    kept = video.to_range
    torch.set_default_dtype(torch.float64)
    video.to_range = lambda frames: frames.double() / 127.5 - 1
    try:
        yield
    finally:
        video.to_range = kept
        torch.set_default_dtype(torch.float32)


def build(stage: str, ranks: Ranks, **changes: Any) -> PairStage | VideoStage:
    """A fresh stage on `ranks`; stage 3 with a random generator and random orthonormal codes."""
    if stage == "pairs":
        run = dataclasses.replace(RUN, pairs=dataclasses.replace(PAIRS, batch=ranks.batch, **changes))
        return PairStage(run, ranks, torch.device("cpu"))
    torch.manual_seed(1)
    codes = torch.linalg.qr(torch.randn(16, 6)).Q.t().reshape(2, 3, 16).contiguous()
    run = dataclasses.replace(RUN, video=dataclasses.replace(VIDEO, batch=ranks.batch, **changes))
    generator = Generator(NETWORK, 16)
    for block in generator.synthesis.blocks:
        block.dtype = torch.get_default_dtype()
    return VideoStage(run, ranks, torch.device("cpu"), generator, codes, spread=torch.eye(run.network.w_dim, dtype=torch.float64))


def batch_of(stage: str, ranks: Ranks, images: int) -> Tensor:
    """The part of the global batch after `images` samples that this worker hosts: shard s always holds the same samples."""
    parts = []
    for shard in ranks.hosted:
        generator = torch.Generator().manual_seed(1000 * images + shard)
        frames = 2 if stage == "pairs" else VIDEO.num_frames
        parts.append(torch.randint(0, 256, (ranks.group, frames, 3, 16, 16), dtype=torch.uint8, generator=generator))
    return torch.cat(parts)


def optimizers(stage: PairStage | VideoStage) -> list[torch.optim.Optimizer]:
    """All optimizers of a stage."""
    return [stage.g_optimizer, stage.d_optimizer] if isinstance(stage, PairStage) else list(stage.optimizers.values())


def train(case: str, rank: int, world: int, eps: float) -> tuple[dict[str, Any], list[dict[str, float]], dict[str, float]]:
    """State after STEPS full iterations of `case`, what was logged at each, and times of a step.

    A large eps of Adam makes its step follow the size of gradients: with a small one a gradient that is off by a factor
    gives the same step, and one that is nothing but rounding gives a full one.
    """
    with double_precision(CASES[case][0]):
        return _train(case, Ranks(CASES[case][1], GROUP, rank, world), eps)


def _train(case: str, ranks: Ranks, eps: float) -> tuple[dict[str, Any], list[dict[str, float]], dict[str, float]]:
    name, _, changes = CASES[case]
    stage = build(name, ranks, **changes)
    for optimizer in optimizers(stage):
        for group in optimizer.param_groups:
            group["eps"] = eps
    progress, logged = Progress(), []
    for _ in range(STEPS):
        logged.append(ranks.average(stage.step(batch_of(name, ranks, progress.images), progress)))
        progress = Progress(progress.images + ranks.batch)
    return stage.state_dict(), logged, stage.look(progress.images)


def main(rank: int, world: int, folder: Path, eps: float) -> None:
    """Train all cases as one of `world` workers; the first worker writes what came out."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    for case in CASES:
        torch.save(train(case, rank, world, eps), folder / f"{case} {rank}.pt")
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
