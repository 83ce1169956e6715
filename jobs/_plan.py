"""What --dry-run prints: sizes and counts, from networks that are built, without memory for their numbers."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn

from mvgan.config import Run
from mvgan.data.ingest import Plan
from mvgan.nets.discriminator import Discriminator
from mvgan.nets.generator import Generator
from mvgan.nets.latent import LatentGenerator
from mvgan.nets.video_discriminator import VideoDiscriminator
from mvgan.train.session import num_shards, plan_of


def parameters(network: Callable[[], nn.Module]) -> int:
    """Trained numbers of the network that `network` builds."""
    with torch.device("meta"):
        return sum(p.numel() for p in network().parameters())


def print_ingest(plan: Plan) -> None:
    """What ingest would read and write."""
    resolution = plan.settings["resolution"]
    print(f"ingest: {plan.num_sources} files, {plan.num_bytes / 1e6:.1f} MB, to shards of {resolution} px at {plan.out}")
    for line in plan.notes:
        print(f"ingest: {line}")


def print_pairs(run: Run, taken: Iterable[str] = ()) -> None:
    """What stage 1 would train, and the lines `taken` of what it begins with."""
    plan = plan_of(run, "pairs", 0)
    g, d = (parameters(partial(network, run.network, run.resolution)) for network in (Generator, Discriminator))
    order = ",".join(map(str, run.interval))
    what = f"pairs of {run.resolution} px at interval {order}" if run.network.frames == 2 else f"single frames of {run.resolution} px"
    longest = max(run.interval) + 1 if run.network.frames == 2 else 1
    print(
        f"pairs: {plan.end:,} {what}, {plan.end // plan.batch:,} steps of {plan.batch} "
        f"in {num_shards(run, 'pairs')} logical shards, from videos of {longest} frames or more; "
        f"generator {g:,} parameters, discriminator {d:,}"
    )
    for line in taken:
        print(line)


def print_codes(run: Run) -> None:
    """What stage 2 would compute."""
    print(
        f"codes: {run.latents} latents, each {run.network.w_dim} tangents {'of each layer, ' if run.codes.space == 'w+' else ''}"
        f"of 2 frames of {run.resolution} px; "
        f"{run.num_codes} codes each way, method {run.codes.method}, from the {run.codes.source} Gram of the {run.codes.select} commit"
    )


def print_video(run: Run, num_videos: int | None) -> None:
    """What stage 3 would train; its length depends on the number of videos where it is given in epochs."""
    config, span = run.video, (run.video.num_frames - 1) * run.stride + 1
    latent = parameters(partial(LatentGenerator, run.network.w_dim, config.hidden, run.num_codes, config.residual))
    d = parameters(partial(VideoDiscriminator, config.d_channels, config.d_scales))
    if config.epochs and num_videos is None:
        length = f"{config.epochs:g} epochs of one clip per video"
    else:
        length = f"{plan_of(run, 'video', num_videos or 0).end:,} clips"
    print(
        f"video: {length} of {config.num_frames} frames at stride {run.stride}, so from videos of {span} frames or more, "
        f"batch {config.batch}, loss {config.loss}; "
        f"latent code generator {latent:,} parameters, discriminators D_V and D_R {d:,} each"
    )
