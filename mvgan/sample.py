"""Videos from a finished run: `Generator.load(uri).sample(seeds, num_frames)`."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack, get_args

import numpy as np
import torch
from torch import Tensor

from mvgan.config import InputError, Run
from mvgan.motion.distribution import LatentDistribution, fit_distribution
from mvgan.motion.walk import Hold, between, chunks, hold_of
from mvgan.nets import generator as nets
from mvgan.nets.latent import LatentGenerator, Side, shown_sides
from mvgan.nets.space import in_space_of
from mvgan.settings import from_dict
from mvgan.storage.uri import Store, open_store
from mvgan.train.export import check_codes, damaged, exported_files, load_weights, read_json, read_tensors
from mvgan.train.pairs import to_uint8
from mvgan.train.state import seed_of
from mvgan.validation import check_pairs, validate


CHUNK = 32
"""Frames synthesized at once, and steps whose noise is one draw, so that a longer video begins with a shorter one; even."""

HOLD_WALKS, HOLD_STEPS = 16, 512
"""Walks, and steps of each, that tell how strongly walks must be held."""

Maps = dict[int, Tensor]
"""A noise map [1, 1, res, res] for each layer that takes one, by the layer's index."""


class Options(TypedDict, total=False):
    """What a video can be told beside its seed, length and truncation: keywords of `Generator.stream`, which explains them."""

    motion_seed: int | None
    first: Side | None
    w: Tensor | None
    interpolate: int
    hold: bool


@dataclass(frozen=True)
class Generator:
    """The exported networks of a run: pair generator, motion codes [2, num_codes, w_dim] and latent code generator.

    Codes of W+ are [2, num_codes, num_ws * w_dim].

    A video is decided by two seeds: that of its content (z and the noise maps) and that of its motion (the LSTM's noise, eq. 9).
    """

    run: Run
    source_fps: float
    pairs: nets.Generator
    codes: Tensor
    latent: LatentGenerator

    @classmethod
    def load(cls, uri: str, device: torch.device | str = "cpu") -> "Generator":
        """The generator in the run folder `uri`, on `device`.

        Raises InputError when the run has not finished, makes no videos, or has codes of another generator.
        """
        store = open_store(uri)
        run, fps = exported_settings(store)
        return cls.of_files(store, run, fps, exported_files(store, "video"), device)

    @classmethod
    def of_files(cls, store: Store, run: Run, source_fps: float, files: Mapping[str, bytes], device: torch.device | str) -> "Generator":
        """The networks of `run` with the weights in `files`, the exports of the run at `store` by their names.

        Raises InputError when they are not those of the settings, or the codes are of another generator.
        """
        pairs = nets.Generator(run.network, run.resolution)
        load_weights(store, "generator.safetensors", pairs, files["generator.safetensors"])
        codes = read_tensors(store, "codes.safetensors", "backward", "forward", content=files["codes.safetensors"])
        layers = pairs.synthesis.num_ws if run.codes.space == "w+" else 1
        for direction in ("backward", "forward"):
            shape, expected = list(codes[direction].shape), [run.num_codes, layers * run.network.w_dim]
            if shape != expected:
                raise damaged(store, "codes.safetensors", f"{direction} is {shape}; by the settings it is {expected}")
        latent = LatentGenerator(run.network.w_dim, run.video.hidden, run.num_codes, run.video.residual)
        load_weights(store, "latent.safetensors", latent, files["latent.safetensors"])
        check_codes(store, files["generator.safetensors"])
        stacked = torch.stack([codes["backward"], codes["forward"]])
        for network in (pairs, latent):
            network.to(device).eval().requires_grad_(False)
        return cls(run, source_fps, pairs, stacked.to(device), latent)

    def fps(self, interpolate: int = 0) -> float:
        """Frame rate at which motion has its natural speed: that of the source over the stride of stage 3, for the steps of the walk."""
        return self.source_fps / self.run.stride * (interpolate / 2 if interpolate else 1)

    def sample(self, seeds: Sequence[int], num_frames: int, truncation: float = 1.0, **options: Unpack[Options]) -> np.ndarray:
        """One video per seed, uint8 [len(seeds), num_frames, 3, h, w]: the `stream` of each, whole, with the same options for all."""
        out = np.empty((len(seeds), num_frames, 3, self.run.resolution, self.run.resolution), dtype=np.uint8)
        for video, seed in zip(out, seeds, strict=True):
            place = 0
            for piece in self.stream(seed, num_frames, truncation, **options):
                video[place : place + len(piece)] = piece
                place += len(piece)
        return out

    @torch.no_grad()
    def stream(
        self,
        seed: int,
        num_frames: int,
        truncation: float = 1.0,
        *,
        motion_seed: int | None = None,
        first: Side | None = None,
        w: Tensor | None = None,
        interpolate: int = 0,
        hold: bool = False,
    ) -> Iterator[np.ndarray]:
        """The video of a seed, always the same, in pieces uint8 [t, 3, h, w] of up to CHUNK frames; a longer one begins with it.

        Memory holds one piece, however long the video. truncation: 1 keeps all variety, lower values draw the content towards
        the mean. motion_seed: that of the motion, by default `seed` too. first: the side of the first frame, by default the
        run's. w: the content [w_dim] in place of the seed's, which then decides the noise maps alone; it is not truncated.
        interpolate: 0 shows the sides in turn (eq. 11), r shows the first one alone, r frames for every two steps, so that 2
        keeps the speed. hold: keep w where the mapping network puts it, so that a video may last for hours (`mvgan.motion.walk`).
        Raises ValueError when there is no frame, w has another shape, or another option is none of these.
        """
        if num_frames < 1:
            raise ValueError(f"num_frames is {num_frames}; a video has at least 1 frame")
        if interpolate < 0:
            raise ValueError(f"interpolate is {interpolate}; give 0, or the frames for every two steps")
        if first not in (None, *get_args(Side)):
            raise ValueError(f"first is {first!r}; give {' or '.join(get_args(Side))}, or leave it away")
        start, maps = self.content(seed, truncation, w)
        motion, first = seed if motion_seed is None else motion_seed, first or self.run.video.first
        for ws, sides in self.walk(start, num_frames, motion, first, interpolate, self.hold if hold else None):
            yield to_uint8(self.pairs_at(ws, maps)[torch.arange(len(ws)), sides])

    @torch.no_grad()
    def sweep(
        self, seed: int, code: tuple[int, int], alphas: Sequence[float], truncation: float = 1.0, *, w: Tensor | None = None
    ) -> Iterator[np.ndarray]:
        """Frame pairs along one motion code, in pieces uint8 [t, 2, 3, h, w] of up to CHUNK pairs: w + alpha n of eq. 2.

        code: the side that it edits (0 backward, 1 forward) and its number, from 0. alphas: in steps, `step_lengths` of w
        each. seed, truncation, w: the content, as of `stream`.
        """
        start, maps = self.content(seed, truncation, w)
        step = self.step_lengths[code] * self.codes[code]
        for part in torch.tensor(alphas, device=step.device, dtype=step.dtype).split(CHUNK):
            yield to_uint8(self.pairs_at(in_space_of(step, start) + part[:, None] * step, maps))

    @property
    def step_lengths(self) -> Tensor:
        """The longest step that stage 3 takes along each code, in w: [2, num_codes] (eq. 10 with a coefficient of 1)."""
        return self.latent.residual * self.latent.scale

    def content(self, seed: int, truncation: float = 1.0, w: Tensor | None = None) -> tuple[Tensor, Maps]:
        """w_0 [w_dim] of a seed, or `w` in its place, and the noise maps of all frames: fresh ones per frame would flicker."""
        draw = torch.Generator().manual_seed(seed_of(seed, "video"))  # on the CPU: a seed means the same on every device
        network, device = self.run.network, self.codes.device
        z = torch.randn(1, network.z_dim, generator=draw).to(device)
        maps = {
            layer: torch.randn(1, 1, size, size, generator=draw).to(device) for layer, size in self.pairs.synthesis.noise_shapes().items()
        }
        if w is None:
            return self.pairs.mapping(z, truncation)[0], maps
        if w.shape != (network.w_dim,):
            raise ValueError(f"w is {list(w.shape)}; expected [{network.w_dim}]")
        return w.to(device, torch.float32), maps

    @torch.no_grad()
    def walk(
        self, w: Tensor, num_frames: int, motion_seed: int, first: Side, interpolate: int = 0, hold: Hold | None = None
    ) -> Iterator[tuple[Tensor, list[int]]]:
        """The latents of a video that starts from w [w_dim], in pieces of up to CHUNK frames, with the side each one shows.

        Pieces are w [t, w_dim], with codes of W+ [t, num_ws * w_dim].
        """
        draw = torch.Generator().manual_seed(seed_of(motion_seed, "motion"))

        def noise(_: int) -> Tensor:
            return torch.randn(1, CHUNK, self.run.network.w_dim, generator=draw).to(w.device)

        pieces = chunks(self.latent, w[None] if hold is None else hold.anchor(w[None]), noise, self.codes, first, CHUNK, hold)
        pieces = between(pieces, interpolate) if interpolate else pieces
        done = 0
        for ws in (part for piece in pieces for part in piece[0].split(CHUNK)):
            ws = ws[: num_frames - done]
            # CHUNK is even, so each piece of a walk begins on the first side.
            yield ws, shown_sides(1, first) * len(ws) if interpolate else shown_sides(len(ws), first)
            done += len(ws)
            if done == num_frames:
                return

    @torch.no_grad()
    def drift(self, seeds: Sequence[int], num_frames: int, *, hold: bool = False) -> Tensor:
        """How far the w of each seed's video is from where the mapping network puts w: float64 [len(seeds), num_frames].

        Distances as of `LatentDistribution.distance`; no frame is made. Raises InputError when w has no distribution, or cannot be held.
        """
        held, rows = self.hold if hold else None, []
        for seed in seeds:
            walk = self.walk(self.content(seed)[0], num_frames, seed, self.run.video.first, hold=held)
            rows.append(torch.cat([self.distribution.distance(ws) for ws, _ in walk]))
        return torch.stack(rows)

    @property
    def distribution(self) -> LatentDistribution:
        """Where the mapping network puts w; measured at the first use. Raises InputError when that is one place."""
        return self._measured[0]

    @functools.cached_property
    def hold(self) -> Hold:
        """What keeps walks of this generator on its latent distribution; measured at the first use. Raises InputError as `hold_of`."""
        distribution, w, noise = self._measured
        return hold_of(self.latent, w, noise, self.codes, self.run.video.first, distribution)

    @functools.cached_property
    def _measured(self) -> tuple[LatentDistribution, Tensor, Tensor]:
        """The distribution of w, and w and noise of the walks that tell how strongly walks must be held."""
        draw = torch.Generator().manual_seed(seed_of(self.run.seed, "hold"))
        network, device = self.run.network, self.codes.device
        distribution = fit_distribution(self.pairs.mapping, draw, network.z_dim, device)
        w = self.pairs.mapping(torch.randn(HOLD_WALKS, network.z_dim, generator=draw).to(device))
        return distribution, w, torch.randn(HOLD_WALKS, HOLD_STEPS, network.w_dim, generator=draw).to(device)

    def pairs_at(self, ws: Tensor, maps: Maps) -> Tensor:
        """The frame pairs of latents ws [t, w_dim], or of W+, with the same noise maps: [t, 2, 3, h, w] around [-1, 1], in float32."""
        return self.pairs.synthesis(ws, functools.partial(_repeated, maps, len(ws)), torch.float32)


def _repeated(maps: Maps, num_frames: int, layer: int, resolution: int) -> Tensor:
    return maps[layer].expand(num_frames, -1, -1, -1)


def exported_settings(store: Store) -> tuple[Run, float]:
    """The config of the run at `store` and the frame rate of its videos, as exported. Raises InputError when it makes no videos."""
    about = read_json(store, "config.json")
    config, fps = about.get("config"), about.get("fps")
    if not isinstance(config, dict) or not isinstance(fps, int | float):
        raise damaged(store, "config.json", "config or fps is missing")
    try:
        run = validate(from_dict(Run(), config))
    except InputError as error:
        raise damaged(store, "config.json", error) from None
    check_pairs(run)
    return run, fps
