"""Which I3D a file holds, told by the values of all its 230 variables, since names and layouts differ between files.

`i3d_variables.csv` has them by name (without RGB/inception_i3d/), shape, and CRC-32C of their float32 values, little-endian
and in TensorFlow's layout, for two networks: that of the module deepmind/i3d-kinetics-400/1 of TensorFlow Hub, by which FVD is
defined, and rgb_imagenet, another of the same authors and shapes. CRCs tell files apart that are mistaken for one another; one
made to deceive is another matter.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import google_crc32c
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from mvgan.config import InputError


FVD, RGB_IMAGENET = "fvd", "rgb_imagenet"
NETWORKS = (FVD, RGB_IMAGENET)

Shape = tuple[int, ...]
Contents = dict[tuple[Shape, int], list[Tensor]]
"""Tensors in TensorFlow's layout by their shape and CRC."""


@dataclass(frozen=True)
class Variable:
    """A variable of I3D: weights [kt, kh, kw, cin, cout], all others [c]; `crcs` are those of each network."""

    name: str
    shape: Shape
    crcs: Mapping[str, int]


@dataclass(frozen=True)
class Identity:
    """What a file holds. `network` is one of NETWORKS whose variables it has all, or None.

    `variables` are those found of it (of FVD's where it is None), by name: weights [cout, cin, kt, kh, kw], all others [c].
    `missing` are the names of those that the file lacks or has with other values, sorted.
    """

    network: str | None
    variables: dict[str, Tensor]
    missing: list[str]


@cache
def variables() -> tuple[Variable, ...]:
    """The 230 variables of I3D, sorted by name."""
    text = resources.files("mvgan.metrics").joinpath("i3d_variables.csv").read_text("utf-8")
    return tuple(
        Variable(row["variable"], tuple(map(int, row["shape"].split("x"))), {name: int(row[name], 16) for name in NETWORKS})
        for row in csv.DictReader(text.splitlines())
    )


def identify(tensors: Mapping[str, Tensor]) -> Identity:
    """Which network `tensors` are, by what they hold, whatever their names.

    Weights may be [cout, cin, kt, kh, kw] or in TensorFlow's layout, all others of any shape; only float32 counts. Tensors
    beyond those of the network do not matter, and what a file computes with them is not looked at.
    """
    held = _contents(tensors)
    found = {network: _found(network, held) for network in NETWORKS}
    whole = next((network for network in NETWORKS if len(found[network]) == len(variables())), None)
    chosen = found[whole or FVD]
    return Identity(whole, chosen, [variable.name for variable in variables() if variable.name not in chosen])


def crc32c(tensor: Tensor) -> int:
    """CRC-32C (RFC 3720) of the elements of a float32 tensor, in order, little-endian."""
    return google_crc32c.value(tensor.detach().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes())


def read_tensors_of(data: bytes, uri: str) -> dict[str, Tensor]:
    """The tensors in the file `data`, TorchScript or safetensors, by the names that they have there, on the CPU.

    `uri` names the file in the InputError for any other.
    """
    try:
        if data.startswith(b"PK"):  # TorchScript is a zip file
            return dict(torch.jit.load(io.BytesIO(data), map_location="cpu").state_dict())
        return load(data)
    except (RuntimeError, ValueError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{uri} is neither TorchScript nor safetensors ({reason}); give a file of one of these kinds") from None


def _contents(tensors: Mapping[str, Tensor]) -> Contents:
    shapes = {variable.shape for variable in variables()}
    held: Contents = defaultdict(list)
    for tensor in tensors.values():
        for candidate in _layouts(tensor):
            if tensor.dtype == torch.float32 and candidate.shape in shapes:
                held[tuple(candidate.shape), crc32c(candidate)].append(candidate)
    return held


def _layouts(tensor: Tensor) -> Iterator[Tensor]:
    """What `tensor` may be in TensorFlow's layout."""
    yield tensor.flatten()
    if tensor.ndim == 5:
        yield tensor
        yield tensor.permute(2, 3, 4, 1, 0)


def _found(network: str, held: Contents) -> dict[str, Tensor]:
    # Each tensor stands for one variable, so two of equal values must both be there.
    left = {content: iter(tensors) for content, tensors in held.items()}
    found: dict[str, Tensor] = {}
    for variable in variables():
        tensor = next(left.get((variable.shape, variable.crcs[network]), iter(())), None)
        if tensor is not None:
            torch_layout = tensor.permute(4, 3, 0, 1, 2) if tensor.ndim == 5 else tensor
            found[variable.name] = torch_layout.detach().clone(memory_format=torch.contiguous_format)
    return found
