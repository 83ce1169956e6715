"""Tell whether a file holds the feature network by which FVD is defined."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from safetensors.torch import save

from jobs._cli import main
from mvgan.config import InputError
from mvgan.metrics.i3d_check import FVD, RGB_IMAGENET, Identity, identify, read_tensors_of, variables
from mvgan.storage.uri import Store, open_store


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
    data = _read(flags.file)
    found = identify(read_tensors_of(data, flags.file))
    _refuse_other(flags.file, found)
    print(f"features: {flags.file} is the I3D of FVD by all its {len(variables())} variables, sha256 {_sha256(data)}")
    if flags.out is not None:
        weights = save(found.variables)
        store, name = _place(flags.out)
        if not store.create(name, weights):
            raise _exists(flags.out)
        print(f"features: its weights are in {flags.out}, sha256 {_sha256(weights)}")


def _refuse_out(out: str) -> None:
    if not out.endswith(SUFFIX):
        raise InputError(f"cannot write weights to {out!r}; give --out a name that ends in {SUFFIX}")
    store, name = _place(out)
    if store.exists(name):
        raise _exists(out)


def _exists(out: str) -> InputError:
    return InputError(f"{out} is there already and is not overwritten; give --out a new name")


def _read(file: str) -> bytes:
    store, name = _place(file)
    try:
        if name in ("", ".", ".."):
            raise IsADirectoryError
        return store.read(name)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"there is no file {file}; give the path or s3:// URI of a TorchScript or safetensors file") from None


def _place(uri: str) -> tuple[Store, str]:
    """The store that the file is in, and its name there."""
    folder, _, name = uri.rpartition("/")
    return open_store(folder or ("/" if uri.startswith("/") else ".")), name


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


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main(
        run,
        Flags,
        "Tell whether a file holds the I3D by which FVD is defined, by the values of its weights (not by what its code does with "
        "them), and print the sha256 that evaluate asks for; with --out, keep the weights without code.",
    )
