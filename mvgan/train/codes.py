"""Stage 2 as plain functions of a run folder: what is computed for each latent and each measure, and the files of a commit."""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from mvgan.config import Run
from mvgan.metrics.features import full_precision
from mvgan.motion.evaluate import EDIT_LATENTS, method_ratios
from mvgan.motion.factorize import DIRECTIONS, METHODS, Sample, combine, factorize_latent
from mvgan.motion.jacobian import pair_grams
from mvgan.nets.generator import Generator
from mvgan.nets.ops import num_channels
from mvgan.storage.run import RunFolder
from mvgan.train.export import WEIGHTS, read_exported
from mvgan.train.kept import Kept
from mvgan.train.session import load_generator, spread_of
from mvgan.train.state import Draws


Measure = tuple[str, str]
"""A method and a direction, whose codes are measured together."""

LARGEST = 32 << 20
"""Bytes from which glibc takes an array from the system each time, which clears it: at 256 px and 64 tangents at once (16 channels)
that made Grams take twice as long as with 8."""

FEWEST = 4
"""Tangents at once that share what is computed once for all of them."""

PRECISION = torch.float32
"""Of the generator: bf16 errs by 7 to 9 % in a Jacobian."""


@dataclass(frozen=True)
class Factorized:
    """What one latent of a run gives."""

    sample: Sample
    known: bool
    """Whether all of it was kept from before."""
    notes: tuple[str, ...]
    """Lines for people on what was kept and is damaged."""


def latents(generator: Generator, run: Run, purpose: str, index: int, count: int) -> Tensor:
    """w [count, w_dim] of fresh latents on the generator's device, the same in every process."""
    device = next(generator.parameters()).device
    return generator.mapping(Draws(run.seed, purpose, index, [0], count, device).normal(run.network.z_dim))


def synthesize(generator: Generator, w: Tensor) -> Tensor:
    """w [n, w_dim], or of W+, -> frames [n, 2, 3, h, w] with fixed noise in float32 (float64 of such a generator), on a GPU without TF32.

    bf16 errs by 7 to 9 % in a Jacobian.
    """
    with full_precision():
        return generator.synthesis(w, None, w.dtype)


def in_layer(generator: Generator, w: Tensor, layer: int, own: Tensor) -> Tensor:
    """As `synthesize` of w [w_dim], but for the layer `layer`, from 0, which alone has the w `own` [n, w_dim]."""
    ws = [w.expand_as(own)] * generator.synthesis.num_ws
    ws[layer] = own
    with full_precision():
        return generator.synthesis.from_layers(ws, None, w.dtype)


def grams_at(generator: Generator, w: Tensor, run: Run) -> Tensor:
    """The Grams of both frames at w [w_dim]: float64 [2, w_dim, w_dim], in W+ by the w of each layer alone [2, num_ws, w_dim, w_dim]."""
    grams = functools.partial(pair_grams, w=w, chunk=chunk_of(run, w.device), grey=run.codes.grey)
    if run.codes.space == "w":
        return grams(functools.partial(synthesize, generator))
    layers = range(generator.synthesis.num_ws)
    return torch.stack([grams(functools.partial(in_layer, generator, w, layer)) for layer in layers], dim=1)


def chunk_of(run: Run, device: torch.device) -> int:
    """Tangents that go through the generator at once: `codes.chunk`, but on a CPU only as many as LARGEST holds of the largest layer."""
    if device.type != "cpu":
        return run.codes.chunk
    sizes = (2**i for i in range(2, run.resolution.bit_length()))
    layer = max(num_channels(run.network, size) * size**2 * torch.float32.itemsize for size in sizes)
    return min(run.codes.chunk, max(LARGEST // layer, FEWEST))


def factorize(folder: RunFolder, index: int, device: torch.device, weights: bytes | None = None) -> Factorized:
    """The Grams of latent `index` of the run and their factorization, as kept in the run folder, or computed and then kept.

    weights: the exported ones of the generator, where they have been read before. Raises InputError when the generator has diverged.
    """
    config, weights = folder.run.codes, weights or read_exported(folder.store, WEIGHTS["pairs"])
    kept = Kept(folder, index, weights, PRECISION, device)

    def grams() -> Tensor:
        generator = load_generator(folder, weights).to(device)
        return grams_at(generator, latents(generator, folder.run, "codes", index, 1)[0], folder.run)

    found = kept.grams(grams)
    sample = kept.sample(found, lambda: factorize_latent(found, config))
    return Factorized(sample, not kept.made, tuple(kept.notes))


def find(folder: RunFolder, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The codes of the run and what there is to say about them (`combine`), from its latents as kept, or computed where one is not."""
    weights = read_exported(folder.store, WEIGHTS["pairs"])
    notes: list[str] = []

    def samples() -> Iterator[Sample]:
        for index in range(folder.run.latents):
            found = factorize(folder, index, device, weights)
            notes.extend(found.notes)
            yield found.sample

    spread = spread_of(load_generator(folder, weights).to(device), folder.run)
    tensors, summary = combine(samples(), spread, folder.run)
    summary["warnings"] += notes
    return tensors, summary


def to_measure(tensors: dict[str, Tensor]) -> dict[Measure, Tensor]:
    """The codes [num_codes, w_dim], or of W+, whose edits are measured: those of all methods that stage 2 found in `tensors`."""
    found = {(method, direction): tensors.get(f"{method}_{direction}") for method in METHODS for direction in DIRECTIONS}
    return {measure: codes for measure, codes in found.items() if codes is not None}


@torch.no_grad()
def measure(folder: RunFolder, codes: Tensor, direction: str, device: torch.device) -> dict[str, Any]:
    """Edit ratios of `codes` [num_codes, w_dim], or of W+, over latents that no code was found at, with their median and worst."""
    generator = load_generator(folder).to(device)
    w = latents(generator, folder.run, "edits", 0, EDIT_LATENTS)
    return method_ratios(functools.partial(synthesize, generator), w, codes, direction)


def commit_files(
    folder: RunFolder, tensors: dict[str, Tensor], summary: dict[str, Any], measures: Mapping[Measure, dict[str, Any]]
) -> dict[str, bytes]:
    """What stage 2 commits: `find`'s tensors and summary, with the `edits` by method and direction and the generator's hash."""
    edits: dict[str, dict[str, Any]] = {}
    for (method, direction), result in measures.items():
        edits.setdefault(method, {})[direction] = result
    generator_sha256 = hashlib.sha256(folder.store.read("export/generator.safetensors")).hexdigest()
    about = summary | {"edits": edits, "generator_sha256": generator_sha256}
    return {"codes.safetensors": save(tensors), "codes.json": json.dumps(about, indent=1).encode()}
