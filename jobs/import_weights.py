"""Turn an official StyleGAN2-ADA or StyleGAN3 network file into safetensors for frame pairs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import tyro
from safetensors.torch import save
from torch import Tensor

from jobs._cli import main
from mvgan.config import InputError
from mvgan.importers.official import about, convert, files
from mvgan.storage.uri import Store, open_store, read_file


WEIGHTS = {"generator.safetensors", "discriminator.safetensors"}


@dataclass(frozen=True)
class Flags:
    """Flags of this verb."""

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Network file (.pkl) of StyleGAN2-ADA, or of StyleGAN3 trained with --cfg=stylegan2: a path or s3:// URI."""
    out: str = tyro.MISSING
    """New folder or s3:// prefix for the weights, which --pairs.init-from takes. The same command again completes one that was
    interrupted."""


def run(flags: Flags) -> None:
    """Convert, and say what came out."""
    out = open_store(flags.out)
    _refuse_others(out)
    data = read_file(flags.file, "a .pkl network file")
    official = convert(data, flags.file)
    _refuse_others(out, dict(files(official)))
    for file, tensors in files(official):
        out.write(file, save(tensors))
        print(f"import: {out.uri}/{file}, {sum(tensor.numel() for tensor in tensors.values()):,} numbers")
    # Last: a folder without it is not taken for weights.
    out.write("config.json", json.dumps(about(official, hashlib.sha256(data).hexdigest()), indent=1).encode())
    network = official.network
    print(
        f"import: {official.resolution} px; train on with --pairs.init-from {out.uri} --resolution {official.resolution} "
        f"--network.z-dim {network.z_dim} --network.w-dim {network.w_dim} --network.mapping-layers {network.mapping_layers} "
        f"--network.channel-base {network.channel_base} --network.channel-max {network.channel_max}"
        + ("" if network.noise else " --network.no-noise")
    )


def _refuse_others(out: Store, made: Mapping[str, Mapping[str, Tensor]] | None = None) -> None:
    """Raise InputError when there is more at `out` than what this command has written before it was cut short: some of the files `made`,
    or, as long as they are not known, of their names.
    """
    there = out.list()
    if made is None:
        ours = there.keys() <= WEIGHTS
    else:
        ours = all(name in made and out.read(name) == save(dict(made[name])) for name in there)
    if not ours:
        raise InputError(f"{out.uri} is there already and is not overwritten; give --out a new folder")


if __name__ == "__main__":
    main(
        run,
        Flags,
        "Turn a StyleGAN2-ADA or StyleGAN3 network file (.pkl) into safetensors for frame pairs. Nothing in the file is run: only its "
        "tensors are read, and a file that wants more is refused.",
    )
