"""Pictures of a stage at work, from fixed latents, so that each can be compared with the one before."""

import numpy as np
import torch

from mvgan.config import Run
from mvgan.media import encode_png, encode_video, grid, upscale
from mvgan.nets.generator import Generator
from mvgan.train.pairs import to_uint8
from mvgan.train.state import Draws
from mvgan.train.video import VideoStage, render


FLIPS_PER_S, FLIPS = 4, 8
"""Of the clip in which former and latter frame take turns."""


def pair_pictures(generator: Generator, run: Run, device: torch.device, columns: int = 8, rows: int = 4) -> dict[str, bytes]:
    """Pairs from fixed latents: a PNG with former and latter frame side by side, and an MP4 in which they take turns.

    Of single frames there is the PNG alone.
    """
    draws = Draws(run.seed, "samples", 0, [0], columns * rows, device)
    frames = to_uint8(generator.synthesis(generator.mapping(draws.normal(run.network.z_dim)), None, torch.float32))
    found = {".png": picture(frames.reshape(-1, *frames.shape[2:]), columns * frames.shape[1])}
    if frames.shape[1] == 1:
        return found
    sides = [tiled(frames[:, side], columns) for side in (0, 1)]
    return found | {".mp4": encode_video(np.stack(sides * (FLIPS // 2)), FLIPS_PER_S, ".mp4")}


def video_rows(stage: VideoStage, videos: int = 6) -> bytes:
    """PNG of videos from fixed latents, a row each."""
    run = stage.run
    draws = Draws(run.seed, "samples", 0, [0], videos, stage.device)
    w = stage.pair_generator.mapping(draws.normal(run.network.z_dim))
    ws = stage.latent(w, draws.normal(run.video.num_frames - 1, run.network.w_dim), stage.codes, run.video.first)
    clips = to_uint8(render(stage.pair_generator, ws, run.video.first, None, torch.float32))
    return picture(clips.reshape(-1, *clips.shape[2:]), run.video.num_frames)


def picture(images: np.ndarray, columns: int) -> bytes:
    """PNG of images uint8 [n, 3, h, w] in `columns`, small ones magnified."""
    return encode_png(tiled(images, columns))


def tiled(images: np.ndarray, columns: int) -> np.ndarray:
    """Images uint8 [n, 3, h, w] in `columns` as one, small ones magnified."""
    return grid(upscale(images, max(1, 64 // images.shape[-1])), columns)
