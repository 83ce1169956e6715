"""Weights that stage 1 begins with: those of another run, or a folder of safetensors as `import_weights` writes it."""

import re
from collections.abc import Mapping
from typing import TypedDict

import torch
from torch import Tensor, nn

from mvgan.config import InputError, Run
from mvgan.nets.discriminator import Discriminator
from mvgan.nets.generator import Generator
from mvgan.storage.run import RECORD, read_run
from mvgan.storage.uri import Store, open_store
from mvgan.train.export import read_weights
from mvgan.train.hooks import Say
from mvgan.train.pairs import PairStage
from mvgan.train.state import from_bytes


Tensors = Mapping[str, Tensor]


FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Weights(TypedDict):
    """Tensors of each network by name; of the discriminator none where only a generator is at hand."""

    generator: Tensors
    ema: Tensors
    discriminator: Tensors


def check_initial(run: Run, uri: str) -> list[str]:
    """Lines that say what the run to be made at `uri` takes of `run.pairs.init_from`; none for one that has begun, which needs it no more.

    Raises InputError when it cannot begin with that.
    """
    source = run.pairs.init_from
    if source is None or (open_store(uri).exists(RECORD) and read_run(uri).commits("pairs").records()):
        return []
    if open_store(source).uri == open_store(uri).uri:
        raise InputError(f"--pairs.init-from {source} is the run itself; give another run or folder")
    with torch.device("meta"):
        generator, discriminator = Generator(run.network, run.resolution), Discriminator(run.network, run.resolution)
    networks = {"generator": generator, "averaged generator": generator, "discriminator": discriminator}
    return [_said(name, networks[name], fitting) for name, fitting in _taken(networks, source).items()]


def read_initial(source: str) -> Weights:
    """The weights at the URI `source`: of a run those of its newest commit of stage 1. Raises InputError when there are none."""
    store = open_store(source)
    try:
        commit = read_run(source).commits("pairs").newest() if store.exists(RECORD) else None
        if commit is None:
            return _in_folder(store, source)
    except (FileNotFoundError, NotADirectoryError):
        folder = (
            "give the folder of a run that has a commit of stage 1, the export/ of a run, or what `python -m jobs.import_weights` wrote"
        )
        if source.endswith(".pkl"):
            folder = f"run `python -m jobs.import_weights {source} --out weights`, and give the folder weights"
        elif source.endswith(".safetensors"):
            folder = "give its folder, and not the file"
        raise InputError(f"--pairs.init-from {source} has no weights; {folder}") from None
    state = from_bytes(read_run(source).commits("pairs").read(commit, "state.pt"))
    return {"generator": state["generator"], "ema": state["ema"], "discriminator": state["discriminator"]}


def _in_folder(store: Store, source: str) -> Weights:
    """Those of an export or import. Raises FileNotFoundError where there are none, and InputError for an unfinished one or other files."""
    generator = read_weights(store, "generator.safetensors")
    if not store.exists("config.json"):  # which is written last
        raise InputError(
            f"--pairs.init-from {source} has no config.json, so what wrote it has not finished; run its `python -m jobs.import_weights` "
            "again, or give an export/ or a run"
        )
    discriminator = read_weights(store, "discriminator.safetensors") if store.exists("discriminator.safetensors") else {}
    return {"generator": generator, "ema": generator, "discriminator": discriminator}


def begin(stage: PairStage, source: str, say: Say) -> None:
    """Give the networks of `stage`, on all workers, what fits of the weights at `source`: tensors of the same place and shape.

    The first worker reads them, as a run at `source` may go on meanwhile, and says what was taken and what was not.
    Raises InputError when nothing fits.
    """
    networks = {"generator": stage.generator, "averaged generator": stage.ema, "discriminator": stage.discriminator}
    if stage.ranks.rank == 0:
        for name, fitting in _taken(networks, source).items():
            ours = networks[name].state_dict()
            for key, tensor in fitting.items():
                ours[key].copy_(tensor)
            say(_said(name, networks[name], fitting))
    stage.ranks.share(tensor for network in networks.values() for tensor in network.state_dict().values())


def _taken(networks: Mapping[str, nn.Module], source: str) -> dict[str, Tensors]:
    """What each network takes of the weights at `source`. Raises InputError when that is no start."""
    weights = read_initial(source)
    theirs = dict(zip(networks, (weights["generator"], weights["ema"], weights["discriminator"]), strict=True))
    for name, tensors in theirs.items():
        for key, tensor in tensors.items():
            _refuse_odd(f"{name} of --pairs.init-from {source}", key, tensor)
    taken: dict[str, Tensors] = {name: _fitting(network, theirs[name]) for name, network in networks.items()}
    if not _fits(taken["generator"]):
        raise InputError("nothing of --pairs.init-from fits the networks of this run; give the same --network.* as there, or other weights")
    if open_store(source).exists("discriminator.safetensors") and not _fits(taken["discriminator"]):
        raise InputError(
            f"nothing of discriminator.safetensors of --pairs.init-from {source} fits the discriminator of this run; give the same "
            "--network.* as there, or a folder without that file, of which the generator alone is taken"
        )
    return taken


def _said(name: str, network: nn.Module, fitting: Tensors) -> str:
    """The line that tells what a network begins with."""
    ours = network.state_dict()
    left = [key for key in ours if key not in fitting]
    rest = f"; begin anew: {_shortened(left)}" if left else ""
    return f"pairs: {name} begins with {len(fitting)} of {len(ours)} tensors of --pairs.init-from{rest}"


def _refuse_odd(what: str, key: str, tensor: Tensor) -> None:
    """Raise InputError for a tensor that no network of ours can hold, as that network is of another kind, or has broken down."""
    if tensor.dtype not in FLOATING:
        raise InputError(f"the {what} has {key[:100]!r} in {tensor.dtype}, expected floating point of 16 to 64 bits; give other weights")
    if not torch.isfinite(tensor.float()).all():
        raise InputError(f"the {what} has {key[:100]!r} with numbers that are not finite; give other weights")


def _fits(fitting: Tensors) -> bool:
    """Whether there is a weight among it: biases and strengths of noise fit many networks."""
    return any(name.endswith("weight") for name in fitting)


def _fitting(network: nn.Module, weights: Tensors) -> dict[str, Tensor]:
    """What of `weights` fits, by the names of `network`."""
    ours, theirs = network.state_dict(), _from_below(weights)
    found = {name: theirs.get(below) for name, below in zip(ours, _from_below(ours), strict=True)}
    return {name: tensor for name, tensor in found.items() if tensor is not None and tensor.shape == ours[name].shape}


def _from_below(tensors: Tensors) -> dict[str, Tensor]:
    """The blocks of a discriminator, which are numbered from the top, by their number from 4 px on; all others as they are.

    Its blocks at 8 px and so on are then the same at every resolution.
    """
    top = max((int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))), default=0)
    return {re.sub(r"^blocks\.(\d+)\.", lambda found: f"blocks-{top - int(found[1])}.", name): tensor for name, tensor in tensors.items()}


def _shortened(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
