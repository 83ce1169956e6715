"""Tell whether a file holds the feature network by which FVD is defined."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from safetensors.torch import save

from jobs._cli import main
from mvgan.config import InputError
from mvgan.metrics.i3d_check import FVD, RGB_IMAGENET, Identity, identify, read_tensors_of, variables
from mvgan.metrics.networks import FeatureNetwork, NetworkFile, difference
from mvgan.storage.uri import place_of, read_file


SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Flags:
    """Flags of this verb."""

    action: Annotated[Literal["check"], tyro.conf.Positional]
    """check: compare all weights in the file with those of I3D, whatever their names there."""
    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """TorchScript or safetensors file: a path or s3:// URI."""
    out: str | None = None
    """New file for the weights alone, without the code of a TorchScript file: a path or s3:// URI that ends in .safetensors."""


def run(flags: Flags) -> None:
    """Print the answer, and write the weights where asked to."""
    if flags.out is not None:
        _refuse_out(flags.out)
    data = read_file(flags.file, "a TorchScript or safetensors file")
    found = identify(read_tensors_of(data, flags.file))
    _refuse_other(flags.file, found)
    print(f"features: {flags.file} has all {len(variables())} variables of the I3D of FVD, sha256 {_sha256(data)}")
    if data.startswith(b"PK"):
        print(f"features: {_computed(NetworkFile(flags.file, _sha256(data)), found)}")
    if flags.out is not None:
        weights = save(found.variables)
        store, name = place_of(flags.out)
        if not store.create(name, weights):
            raise _exists(flags.out)
        print(f"features: its weights are in {flags.out}, sha256 {_sha256(weights)}")


def _refuse_out(out: str) -> None:
    if not out.endswith(SUFFIX):
        raise InputError(f"cannot write weights to {out!r}; give --out a name that ends in {SUFFIX}")
    store, name = place_of(out)
    if store.exists(name):
        raise _exists(out)


def _exists(out: str) -> InputError:
    return InputError(f"{out} is there already and is not overwritten; give --out a new name")


def _refuse_other(file: str, found: Identity) -> None:
    """Raise InputError unless it is the network of FVD."""
    if found.network == RGB_IMAGENET:
        raise InputError(
            f"{file} is the I3D rgb_imagenet, which gives plausible but wrong FVDs; give the one of deepmind/i3d-kinetics-400/1"
        )
    if found.network != FVD:
        raise InputError(
            f"{file} is not the I3D of FVD: of its {len(variables())} variables {len(found.missing)} are missing or have other "
            f"values, first {found.missing[0]}; give the one of deepmind/i3d-kinetics-400/1"
        )


def _computed(file: NetworkFile, found: Identity) -> str:
    """What the code of a TorchScript file makes of the weights."""
    try:
        other = difference(FeatureNetwork("clips", file), found)
    except InputError as error:
        return f"but {error}; its weights alone, by --out, are right"
    if other:
        return f"but its code computes other features than I3D, {other:.2g} off on a test clip: keep its weights by --out, and give those"
    return "and computes what I3D computes with them"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main(
        run,
        Flags,
        "Tell whether a file holds the I3D by which FVD is defined, by the values of its weights and by what its code computes with "
        "them, and print the sha256 that evaluate asks for; with --out, keep the weights without code.",
    )
