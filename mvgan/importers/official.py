"""Official StyleGAN2-ADA and StyleGAN3 (`--cfg=stylegan2`) networks as mvgan's own, of 3 colours or of frame pairs.

Their parameters and mvgan's are the same numbers: both keep weights before the equalised learning rate's factor, and neither flips kernels.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mvgan.config import InputError, Network
from mvgan.importers.pickled import Module, read_pickle
from mvgan.importers.restricted import one_line, shown
from mvgan.nets.discriminator import Discriminator
from mvgan.nets.generator import Generator


Tensors = dict[str, Tensor]

G_NAMES = (
    (r"mapping\.fc(\d+)\.(weight|bias)", r"mapping.layers.\1.\2"),
    (r"mapping\.w_avg", "mapping.w_avg"),
    (r"synthesis\.b(\d+)\.torgb\.(.+)", r"synthesis.blocks.{\1}.to_frames.\2"),
    (r"synthesis\.b(\d+)\.((?:const|conv0|conv1)\b.*)", r"synthesis.blocks.{\1}.\2"),
)
D_NAMES = (
    (r"b\d+\.fromrgb\.(.+)", r"from_frames.\1"),
    (r"b4\.((?:conv|fc|out)\..+)", r"\1"),
    (r"b(\d+)\.((?:conv0|conv1|skip)\..+)", r"blocks.{\1}.\2"),
)
"""Patterns of official names and what they become; {resolution} stands for the number of the block."""

LEFT = re.compile(r"(.*\.)?resample_filter|.*\.mbstd\..*")
"""Buffers that mvgan has as constants."""


@dataclasses.dataclass(frozen=True)
class Official:
    """Networks of a file, for pairs: the settings that build them, the averaged generator and, where the file has it, the discriminator."""

    network: Network
    resolution: int
    generator: Tensors
    discriminator: Tensors | None


def convert(data: bytes, uri: str) -> Official:
    """The networks in the file `data`. Raises InputError, naming `uri`, for other files, architectures and conditional networks."""
    content = read_pickle(data, uri)
    g, d = content.get("G_ema"), content.get("D")
    if not isinstance(g, Module):
        raise InputError(f"{uri} has no generator G_ema; give a StyleGAN2-ADA or StyleGAN3 network file")
    d = d if isinstance(d, Module) else None
    try:
        _refuse_conditional([module for module in (g, d) if module], uri)
        return _converted(g, d, uri)
    except (KeyError, ValueError, IndexError, RuntimeError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{uri} is no StyleGAN2 network ({one_line(error)}); give one of StyleGAN2-ADA, or of StyleGAN3 with --cfg=stylegan2"
        ) from None


def _refuse_conditional(modules: list[Module], uri: str) -> None:
    for module in modules:
        c_dim = module.state.get("c_dim", 0)
        if type(c_dim) is not int:
            raise InputError(f"{uri} has a {type(c_dim).__name__} for c_dim, expected a whole number; give another")
        if c_dim:
            raise InputError(f"{uri} is conditional (c_dim {c_dim}), and mvgan's networks are not; give another")


def _converted(g: Module, d: Module | None, uri: str) -> Official:
    official = dict(g.tensors())
    resolution = max((int(found[1]) for name in official if (found := re.match(r"synthesis\.b(\d+)\.", name))), default=0)
    network = _network(official, resolution)
    generator = _renamed(official, G_NAMES, range(2, resolution.bit_length()))
    _to_pairs(generator, [name for name in generator if ".to_frames." in name and ".affine." not in name])
    with torch.device("meta"):  # shapes alone, which a file may claim to be as large as it likes
        ours = Generator(network, resolution), Discriminator(network, resolution)
    _check(generator, ours[0], f"generator of {uri}")
    if d is None:
        return Official(network, resolution, generator, None)
    discriminator = _renamed(dict(d.tensors()), D_NAMES, range(resolution.bit_length() - 1, 2, -1))
    _halve(discriminator)
    _check(discriminator, ours[1], f"discriminator of {uri}")
    return Official(network, resolution, generator, discriminator)


def _network(official: Mapping[str, Tensor], resolution: int) -> Network:
    """Its settings, told by the shapes. Raises KeyError, ValueError or IndexError for a tensor that is missing or of other dimensions."""
    layers = sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", name)) for name in official)
    channels = {2**i: official[f"synthesis.b{2**i}.conv1.weight"].shape[0] for i in range(2, resolution.bit_length())}
    most = max(channels.values(), default=0)
    base = next((count * size for size, count in sorted(channels.items()) if count < most), most * resolution)
    (w_dim, z_dim), noise = official["mapping.fc0.weight"].shape, "synthesis.b4.conv1.noise_strength" in official
    if not all((w_dim, z_dim, *channels.values())):
        raise ValueError("it has a layer of no channels")
    return Network(z_dim=z_dim, w_dim=w_dim, mapping_layers=layers, channel_base=base, channel_max=most, noise=noise)


def _renamed(official: Mapping[str, Tensor], names: tuple[tuple[str, str], ...], blocks: range) -> Tensors:
    """Tensors under mvgan's names, in float32. `blocks`: log2 of the resolution of each block in order."""
    number = {2**log2: index for index, log2 in enumerate(blocks)}
    out: Tensors = {}
    for name, tensor in official.items():
        if LEFT.fullmatch(name):
            continue
        for pattern, ours in names:
            found = re.fullmatch(pattern, name)
            if found:
                name = re.sub(r"\{(\d+)\}", lambda size: str(number.get(int(size[1]), size[1])), found.expand(ours))
                break
        if not tensor.is_floating_point():
            raise ValueError(f"{shown(name)} holds {tensor.dtype}")
        out[name] = tensor.detach().float().contiguous()
    return out


def _to_pairs(generator: Tensors, names: list[str]) -> None:
    """Both frames of a pair get the colours of the one image."""
    for name in names:
        if generator[name].shape[0] == 3:
            generator[name] = generator[name].repeat(2, *[1] * (generator[name].ndim - 1))


def _halve(discriminator: Tensors) -> None:
    """A pair of equal frames is seen as the one image was: half of it from each frame, and the factor of the equalised learning rate,
    1 / sqrt(inputs), is sqrt(2) smaller.
    """
    weight = discriminator.get("from_frames.weight")
    if weight is not None and weight.ndim == 4 and weight.shape[1] == 3:
        discriminator["from_frames.weight"] = weight.repeat(1, 2, 1, 1) * (2**0.5 / 2)


def _check(tensors: Tensors, network: nn.Module, what: str) -> None:
    """Raise InputError unless they are those of `network`, all of them and no more."""
    ours = network.state_dict()
    wrong = [_difference(name, tensors.get(name), ours.get(name)) for name in sorted(tensors.keys() | ours.keys())]
    differences = [words for words in wrong if words]
    if differences:
        raise InputError(
            f"the {what} is not a StyleGAN2 that mvgan knows: {len(differences)} tensors differ, first {differences[0]}; give one with "
            "skip generator and residual discriminator"
        )


def _difference(name: str, found: Tensor | None, ours: Tensor | None) -> str:
    name = shown(name)
    if found is None or ours is None:
        return f"{name} is {'missing' if found is None else 'unknown'}"
    if found.shape != ours.shape:
        return f"{name} of {list(found.shape)}, expected {list(ours.shape)}"
    return "" if torch.isfinite(found).all() else f"{name} is not finite"


def about(official: Official, sha256: str) -> dict[str, Any]:
    """What a folder of these weights says of them."""
    return {
        "format_version": 1,
        "resolution": official.resolution,
        "network": dataclasses.asdict(official.network),
        "imported_from_sha256": sha256,
    }


def files(official: Official) -> Iterator[tuple[str, Tensors]]:
    """The safetensors files of these weights."""
    yield "generator.safetensors", official.generator
    if official.discriminator is not None:
        yield "discriminator.safetensors", official.discriminator
