"""What stage 2 keeps of each latent until its codes are committed, so that a run that is killed computes nothing twice.

Below the folder of the run that trained the generator, in `codes/kept/`, each a sealed file of safetensors (`mvgan.storage.sealed`):

- `<latent>-<key>.grams`: both Grams, in W+ those of each layer.
- `<latent>-<key>.factors`: their factorizations, where there are any.

A key is a hash of all that the content follows from, so that what is found is never of other weights or settings, whoever
wrote it: a driver that was thought dead can only write what the one in its place would. Two things change no more than
rounding and are left out of it: the size of a chunk, so that one may be lowered for want of memory without a loss, and the
hardware, but for its kind (a GPU draws other random numbers than a CPU).
"""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from mvgan.config import Codes
from mvgan.motion.factorize import FRAMES, Sample, needs_factors
from mvgan.motion.rpca import LowRank
from mvgan.nets.space import blocks
from mvgan.settings import to_dict
from mvgan.storage.commit import Damaged
from mvgan.storage.run import RunFolder
from mvgan.storage.sealed import read_sealed, write_sealed


FOLDER = "codes/kept"

FORMAT = 1
"""Counted up when Grams or factorizations are computed otherwise, so that older ones are not taken for the same."""

GRAM_SETTINGS = ("grey", "space")
"""Fields of `Codes` that shape a Gram."""

FACTOR_SETTINGS = ("lam", "max_iterations", "tolerance")
"""Fields of `Codes` that shape the factorization of a given Gram."""

NUMBERS = {bool: torch.bool, int: torch.int64, float: torch.float64}
"""How the single numbers of a factorization are kept, each exactly."""

Tensors = dict[str, Tensor]


def kept_settings(codes: Codes) -> dict[str, Any]:
    """The settings of stage 2 that shape what is kept."""
    shaping = GRAM_SETTINGS + (FACTOR_SETTINGS if needs_factors(codes) else ())
    return {name: getattr(codes, name) for name in shaping}


class Kept:
    """What is kept of one latent of a run, whose pair generator has the exported `weights` and is computed in `dtype` on `device`."""

    def __init__(self, folder: RunFolder, index: int, weights: bytes, dtype: torch.dtype, device: torch.device) -> None:
        run, settings = folder.run, kept_settings(folder.run.codes)
        self._store, self._index = folder.home("pairs"), index
        self._gram = {
            "format": FORMAT,
            "generator_sha256": hashlib.sha256(weights).hexdigest(),
            "network": to_dict(run.network),
            "resolution": run.resolution,
            "seed": run.seed,
            "index": index,
            "dtype": str(dtype),
            "device": device.type,
            **{name: settings[name] for name in GRAM_SETTINGS},
        }
        self._needs_factors = needs_factors(run.codes)
        self._factors = self._gram | settings
        self.made = 0
        """How many files were not there and had to be made."""
        self.notes: list[str] = []
        """Lines on files that were damaged."""

    def grams(self, compute: Callable[[], Tensor]) -> Tensor:
        """The Grams as kept, or as `compute` gives them, then kept: float64 [2, w_dim, w_dim], or of W+, on the CPU."""
        return self._once("grams", self._gram, lambda: {"grams": compute()})["grams"]

    def sample(self, grams: Tensor, compute: Callable[[], Sample]) -> Sample:
        """`grams` and their factorizations as kept, or as `compute` gives them, then kept."""
        if not self._needs_factors:
            return compute()
        tensors = self._once("factors", self._factors, lambda: _pack(compute()))
        former, latter = (tuple(_unpack(tensors, frame, layer) for layer in range(len(blocks(grams[0])))) for frame in FRAMES)
        return Sample(grams, (former, latter))

    def _once(self, kind: str, about: dict[str, Any], compute: Callable[[], Tensors]) -> Tensors:
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        path = f"{FOLDER}/{self._index:05d}-{key[:32]}.{kind}"
        data = self._read(path)
        if data is None:
            self.made += 1
            data = save({name: tensor.detach().cpu().contiguous() for name, tensor in compute().items()})
            write_sealed(self._store, path, data)
        # Also what has just been computed is taken from its file: strides and alignment can change the last bit of a product.
        return {name: tensor.clone() for name, tensor in load(data).items()}

    def _read(self, path: str) -> bytes | None:
        try:
            return read_sealed(self._store, path)
        except FileNotFoundError:
            return None
        except Damaged as error:
            self.notes.append(f"{error}, and computed again")
            return None


def forget(folder: RunFolder) -> None:
    """Remove what is kept of all latents, once their codes are committed; what other runs share stays."""
    for path in () if folder.stage_1_of else folder.store.list(f"{FOLDER}/"):
        folder.store.delete(path)


def _pack(sample: Sample) -> Tensors:
    """The factorizations of both frames, by layer, as tensors, their single numbers as ones of no dimension."""
    found = {}
    for frame, factors in zip(FRAMES, sample.factors, strict=True):
        for layer, factor in enumerate(factors):
            for field in dataclasses.fields(factor):
                value = getattr(factor, field.name)
                tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=NUMBERS[type(value)])
                found[f"{frame}.{layer}.{field.name}"] = tensor
    return found


def _unpack(tensors: Tensors, frame: str, layer: int) -> LowRank:
    fields: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(LowRank).items():
        tensor = tensors[f"{frame}.{layer}.{name}"]
        fields[name] = tensor if kind is Tensor else tensor.item()
    return LowRank(**fields)
