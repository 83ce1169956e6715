"""The content a video starts from, given from outside: a latent from a file, or the one whose frame is most like a picture."""

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mvgan.config import InputError
from mvgan.data.decode import Undecodable, decode_image, resize_square
from mvgan.motion.distribution import fit_distribution
from mvgan.nets.latent import FORMER, LATTER, Side
from mvgan.sample import Generator
from mvgan.storage.uri import read_file
from mvgan.train.pairs import to_range
from mvgan.train.state import seed_of


STEPS = 500
"""Of Adam. StyleGAN2 takes 1,000; from 300 on little changes at 32 px."""

LEARNING_RATE, RAMP_UP, RAMP_DOWN = 0.1, 0.05, 0.25
"""The rate, and the shares of all steps in which it rises and falls (StyleGAN2, Appendix D)."""

NOISE, NOISE_END = 0.05, 0.75
"""Deviation of the noise on w at first, as a share of the deviation of w, and the share of steps after which there is none (likewise)."""

PULL = 3e-3
"""Weight of the mean squared Mahalanobis distance of w beside the squared difference of pixels: keeps w where the mapping puts it."""

LARGEST = 1e4
"""Size of the numbers of a w that is given; those of mapping networks are about 1."""

SMALLEST = 8
"""Size of the coarsest of the scales at which pixels are compared."""

SAY_S = 5.0
"""Time between two lines about how far it is."""


@dataclass(frozen=True)
class Projection:
    """A latent that was found for a picture."""

    w: Tensor
    """float32 [w_dim]."""
    before: float
    """Mean squared difference between the picture and the frame at the mean w, clamped as it is shown, both on [-1, 1]."""
    after: float
    """The same at `w`."""


def project(
    generator: Generator, picture: np.ndarray, seed: int, first: Side, steps: int = STEPS, say: Callable[[str], None] = lambda line: None
) -> Projection:
    """Find the w whose frame on the side `first`, with the noise maps of `seed`, looks like `picture` uint8 [3, h, w].

    From the mean w by Adam, with noise on w that fades, as StyleGAN2's Appendix D has it. The loss is the mean over scales
    of the squared difference of pixels, halved in size down to SMALLEST, with a pull to the distribution of w, in place
    of the features of a network that would have to be downloaded. The same on every run. `say` is told how far it is.
    Raises ValueError when the picture has another size.
    """
    size = generator.run.resolution
    if picture.shape != (3, size, size):
        raise ValueError(f"the picture is {list(picture.shape)}; expected [3, {size}, {size}]")
    device, side = generator.codes.device, FORMER if first == "former" else LATTER
    draw = torch.Generator().manual_seed(seed_of("projection w"))
    near = fit_distribution(generator.pairs.mapping, draw, generator.run.network.z_dim, device)
    mean, precision = near.mean.float().to(device), torch.cholesky_inverse(near.factor).float().to(device)
    deviation = float(near.factor.norm())  # the root of the covariance's trace
    _, maps = generator.content(seed)
    wanted = to_range(torch.from_numpy(picture).to(device))[None]
    targets = _scales(wanted)
    draw = torch.Generator().manual_seed(seed_of("projection"))
    w = mean.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([w], lr=LEARNING_RATE)
    started = said = time.monotonic()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * _ramp(step / steps)
        noise = NOISE * deviation * max(0.0, 1 - step / steps / NOISE_END) ** 2 * torch.randn(len(w), generator=draw).to(device)
        frames = generator.pairs_at((w + noise)[None], maps)[:, side]
        difference = torch.stack([(a - b).square().mean() for a, b in zip(_scales(frames), targets, strict=True)]).mean()
        distance = (w - mean) @ precision @ (w - mean) / len(w)
        optimizer.zero_grad()
        (difference + PULL * distance).backward()
        optimizer.step()
        now = time.monotonic()
        if now > said + SAY_S or step + 1 == steps:
            said, elapsed_s = now, now - started
            eta_s = elapsed_s / (step + 1) * (steps - step - 1)
            say(f"projection: {step + 1}/{steps} steps, difference {difference.item():.4g}, {elapsed_s:.0f} s, ETA {eta_s:.0f} s")
    with torch.no_grad():
        before, after = (generator.pairs_at(at[None], maps)[:, side].clamp(-1, 1) - wanted for at in (mean, w))
    return Projection(w.detach(), float(before.square().mean()), float(after.square().mean()))


def _ramp(progress: float) -> float:
    """Share of the learning rate after the share `progress` of all steps: a linear rise, and a fall like half a cosine wave."""
    fall = min(1.0, (1 - progress) / RAMP_DOWN)
    return (0.5 - 0.5 * math.cos(math.pi * fall)) * min(1.0, progress / RAMP_UP)


def _scales(frames: Tensor) -> list[Tensor]:
    """Frames [n, 3, h, w] as they are, and halved again and again."""
    found = [frames]
    while found[-1].shape[-1] > SMALLEST:
        found.append(F.avg_pool2d(found[-1], 2))
    return found


def read_picture(uri: str, resolution: int) -> np.ndarray:
    """The picture at a path or s3:// URI as ingest would have it, its centre square resized: uint8 [3, resolution, resolution].

    Raises InputError when there is none, or it cannot be read.
    """
    try:
        image = decode_image(io.BytesIO(read_file(uri, "a PNG or JPEG picture, or of a .safetensors file with a tensor w")))
    except Undecodable as error:
        raise InputError(f"the picture {uri} {error}; give a PNG or JPEG picture, or a .safetensors file with a tensor w") from None
    return np.ascontiguousarray(resize_square(image, resolution).transpose(2, 0, 1))


def read_latents(uri: str, w_dim: int) -> Tensor:
    """The tensor `w`, [w_dim] or [n, w_dim], of a safetensors file: float32 [n, w_dim]. Raises InputError when it is none such."""
    advice = f"expected a tensor w of [{w_dim}] or [n, {w_dim}] numbers, as the w_dim of this generator is {w_dim}"
    try:
        tensors = load(read_file(uri, "a .safetensors file with a tensor w"))
    except SafetensorError as error:
        raise InputError(f"{uri} is no safetensors file ({' '.join(str(error).split())}); {advice}") from None
    if "w" not in tensors:
        raise InputError(f"{uri} has no tensor w, but {', '.join(sorted(tensors)) or 'nothing'}; {advice}")
    if not tensors["w"].is_floating_point():
        raise InputError(f"the tensor w of {uri} holds {tensors['w'].dtype}; {advice}, of a floating-point kind")
    w = torch.atleast_2d(tensors["w"].float())
    if w.ndim != 2 or w.shape[1] != w_dim or not len(w):
        raise InputError(f"the tensor w of {uri} is {list(tensors['w'].shape)}; {advice}")
    if not w.abs().max() <= LARGEST:
        raise InputError(f"the tensor w of {uri} has numbers that are not finite or beyond {LARGEST}; {advice}")
    return w


def latents_file(w: Tensor) -> bytes:
    """The file that `read_latents` reads."""
    return save({"w": w.cpu().contiguous()})
