"""Benchmark `video-step`: training of stage 3 with many frames in a synthesis call (on a GPU all of a batch), against a call per frame.

The released code synthesizes frame after frame. All else is the same on both sides.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

import mvgan.train.video
from mvgan.bench.harness import Benchmark, Ratio, Side
from mvgan.config import InputError, Network, Run, Video
from mvgan.motion.codes import random_codes
from mvgan.nets.generator import Generator, Noise
from mvgan.nets.latent import Side as Frame
from mvgan.nets.latent import shown_sides
from mvgan.train.ranks import Ranks
from mvgan.train.state import Progress
from mvgan.train.video import VideoStage


GROUP = 4


@dataclasses.dataclass(frozen=True)
class VideoStep:
    """What is measured: clips of 16 frames of `resolution` in batches of `batch`, on `device`, with the released losses and steps."""

    resolution: int
    device: str
    channel_base: int
    channel_max: int
    d_channels: int
    batch: int

    def run(self) -> Run:
        """Settings of the paper, at its networks' width or another; float32 on a CPU, else bf16."""
        precision = "fp32" if self.device == "cpu" else "bf16"
        network = Network(channel_base=self.channel_base, channel_max=self.channel_max, precision=precision)  # type: ignore[arg-type]
        video = Video(batch=self.batch, group=GROUP, d_channels=self.d_channels)
        return Run(resolution=self.resolution, network=network, video=video)


def benchmark(step: VideoStep) -> Benchmark:
    """Steps of all networks of stage 3, on one core or one GPU."""
    sides = Side("mvgan", training, (step, False)), Side("per frame", training, (step, True))
    ratios = (Ratio("mvgan", "per frame", "core" if step.device == "cpu" else "clock"),)
    return Benchmark("video-step", "clips", sides, ratios, dataclasses.asdict(step))


def check(step: VideoStep) -> None:
    """Raises InputError for a batch that does not divide into groups."""
    if step.batch < GROUP or step.batch % GROUP:
        raise InputError(f"--batch {step.batch} does not divide into groups of {GROUP}; give a multiple of {GROUP}")


def training(step: VideoStep, per_frame: bool) -> Iterator[int]:
    """Clips trained on, after each step, in this process, which renders frame by frame from then on where that is asked for."""
    torch.set_num_threads(1)
    if per_frame:
        mvgan.train.video.render = frame_by_frame
    run, device = step.run(), torch.device(step.device)
    torch.manual_seed(0)
    generator = Generator(run.network, run.resolution)
    codes = torch.stack([random_codes(run.num_codes, run.network.w_dim, seed).float() for seed in (0, 1)])
    stage = VideoStage(run, Ranks(step.batch // GROUP, GROUP), device, generator, codes)
    shape = (step.batch, run.video.num_frames, 3, step.resolution, step.resolution)
    batch = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    for index in itertools.count():
        stage.step(batch, Progress(index * step.batch))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        yield step.batch


def frame_by_frame(
    generator: Generator, ws: Tensor, first: Frame, noise: Noise | None, dtype: torch.dtype | None = None, at_once: int = 0
) -> Tensor:
    """What `mvgan.train.video.render` gives, with a synthesis call for each frame of the clips; `at_once` has no part in it."""
    num_frames = ws.shape[1]
    frames = []
    for t, side in enumerate(shown_sides(num_frames, first)):
        maps = None if noise is None else lambda layer, resolution, t=t: noise(layer, resolution)[t::num_frames]
        frames.append(generator.synthesis(ws[:, t], maps, dtype)[:, side])
    return torch.stack(frames, dim=1)
