"""Videos from a finished run: `Generator.load(uri).sample(seeds, num_frames)`."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mvgan.config import InputError, Run, from_dict
from mvgan.nets import generator as nets
from mvgan.nets.latent import LatentGenerator
from mvgan.storage.uri import Store, open_store
from mvgan.train.export import damaged, load_weights, read_json, read_tensors
from mvgan.train.state import seed_of
from mvgan.train.video import render
from mvgan.validation import check_pairs, validate


CHUNK = 32
"""Frames synthesized at once; even, so that each chunk begins on the same side of the pair."""


@dataclass(frozen=True)
class Generator:
    """The exported networks of a run: pair generator, motion codes [2, num_codes, w_dim] and latent code generator."""

    run: Run
    source_fps: float
    pairs: nets.Generator
    codes: Tensor
    latent: LatentGenerator

    @classmethod
    def load(cls, uri: str, device: torch.device | str = "cpu") -> "Generator":
        """The generator in the run folder `uri`, on `device`. Raises InputError when the run has not finished, or makes no videos."""
        store = open_store(uri)
        return cls.of_files(store, *_settings(store), {}, device)

    @classmethod
    def of_files(cls, store: Store, run: Run, source_fps: float, files: Mapping[str, bytes], device: torch.device | str) -> "Generator":
        """The networks of `run` with the weights in `files`, by their names in export/ of the run at `store`, or there where not given."""
        check_pairs(run)
        pairs = nets.Generator(run.network, run.resolution)
        load_weights(store, "generator.safetensors", pairs, files.get("generator.safetensors"))
        codes = read_tensors(store, "codes.safetensors", "backward", "forward", content=files.get("codes.safetensors"))
        latent = LatentGenerator(run.network.w_dim, run.video.hidden, run.num_codes, run.video.residual)
        load_weights(store, "latent.safetensors", latent, files.get("latent.safetensors"))
        stacked = torch.stack([codes["backward"], codes["forward"]])
        for network in (pairs, latent):
            network.to(device).eval().requires_grad_(False)
        return cls(run, source_fps, pairs, stacked.to(device), latent)

    @property
    def fps(self) -> float:
        """Frame rate at which motion has its natural speed: that of the source over the stride of stage 3."""
        return self.source_fps / self.run.stride

    def sample(self, seeds: Sequence[int], num_frames: int, truncation: float = 1.0) -> np.ndarray:
        """One video per seed, uint8 [len(seeds), num_frames, 3, h, w]: the `stream` of each, whole."""
        out = np.empty((len(seeds), num_frames, 3, self.run.resolution, self.run.resolution), dtype=np.uint8)
        for video, seed in zip(out, seeds, strict=True):
            place = 0
            for piece in self.stream(seed, num_frames, truncation):
                video[place : place + len(piece)] = piece
                place += len(piece)
        return out

    @torch.no_grad()
    def stream(self, seed: int, num_frames: int, truncation: float = 1.0) -> Iterator[np.ndarray]:
        """The video of a seed, always the same, in pieces uint8 [t, 3, h, w] of up to CHUNK frames.

        Memory holds the latents of the whole video but the activations of one piece. truncation: 1 keeps all variety,
        lower values draw the content towards the mean.
        """
        draw = torch.Generator().manual_seed(seed_of(seed, "video"))  # on the CPU: a seed means the same on every device
        network, device = self.run.network, self.codes.device
        z = torch.randn(1, network.z_dim, generator=draw).to(device)
        # One noise map per layer for the whole video: fresh noise per frame would flicker.
        maps = {
            layer: torch.randn(1, 1, size, size, generator=draw).to(device) for layer, size in self.pairs.synthesis.noise_shapes().items()
        }
        e = torch.randn(1, num_frames - 1, network.w_dim, generator=draw).to(device)
        ws = self.latent(self.pairs.mapping(z, truncation), e, self.codes, self.run.video.first)
        for part in ws.split(CHUNK, dim=1):
            noise = functools.partial(_repeated, maps, part.shape[1])
            (frames,) = render(self.pairs, part, self.run.video.first, noise, torch.float32)
            yield ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def _repeated(maps: dict[int, Tensor], num_frames: int, layer: int, resolution: int) -> Tensor:
    return maps[layer].expand(num_frames, -1, -1, -1)


def _settings(store: Store) -> tuple[Run, float]:
    """The run's config and the frame rate of its videos."""
    about = read_json(store, "config.json")
    config, fps = about.get("config"), about.get("fps")
    if not isinstance(config, dict) or not isinstance(fps, int | float):
        raise damaged(store, "config.json", "config or fps is missing")
    try:
        return validate(from_dict(Run(), config)), fps
    except InputError as error:
        raise damaged(store, "config.json", error) from None
