"""Weights that stage 1 begins with: those of another run, or a folder of safetensors as `import_weights` writes it."""

import re
from collections.abc import Mapping
from typing import TypedDict

import torch
from torch import Tensor, nn

from mvgan.config import InputError, Run
from mvgan.nets.generator import Generator
from mvgan.storage.run import RECORD, read_run
from mvgan.storage.uri import open_store
from mvgan.train.export import read_weights
from mvgan.train.hooks import Say
from mvgan.train.pairs import PairStage
from mvgan.train.state import from_bytes


Tensors = Mapping[str, Tensor]


class Weights(TypedDict):
    """Tensors of each network by name; of the discriminator none where only a generator is at hand."""

    generator: Tensors
    ema: Tensors
    discriminator: Tensors


def check_initial(run: Run, uri: str) -> None:
    """Raise InputError when the run to be made at `uri` cannot begin with `run.pairs.init_from`; one that has begun needs it no more."""
    source = run.pairs.init_from
    if source is None or (open_store(uri).exists(RECORD) and read_run(uri).commits("pairs").records()):
        return
    if open_store(source).uri == open_store(uri).uri:
        raise InputError(f"--pairs.init-from {source} is the run itself; give another run or folder")
    with torch.device("meta"):
        generator = Generator(run.network, run.resolution)
    _refuse_strangers(generator, _fitting(generator, read_initial(source)["generator"]))


def read_initial(source: str) -> Weights:
    """The weights at the URI `source`: of a run those of its newest commit of stage 1. Raises InputError when there are none."""
    store = open_store(source)
    try:
        commit = read_run(source).commits("pairs").newest() if store.exists(RECORD) else None
        if commit is None:
            generator = read_weights(store, "generator.safetensors")
            discriminator = read_weights(store, "discriminator.safetensors") if store.exists("discriminator.safetensors") else {}
            return {"generator": generator, "ema": generator, "discriminator": discriminator}
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"--pairs.init-from {source} has no weights; give the folder of a run that has a commit of stage 1, the export/ of a run, "
            "or what `python -m jobs.import_weights` wrote"
        ) from None
    state = from_bytes(read_run(source).commits("pairs").read(commit, "state.pt"))
    return {"generator": state["generator"], "ema": state["ema"], "discriminator": state["discriminator"]}


def begin(stage: PairStage, source: str, say: Say) -> None:
    """Give the networks of `stage`, on all workers, what fits of the weights at `source`: tensors of the same place and shape.

    The first worker reads them, as a run at `source` may go on meanwhile, and says what was taken and what was not.
    Raises InputError when nothing fits.
    """
    networks = {"generator": stage.generator, "averaged generator": stage.ema, "discriminator": stage.discriminator}
    if stage.ranks.rank == 0:
        weights = read_initial(source)
        for (name, network), tensors in zip(
            networks.items(), (weights["generator"], weights["ema"], weights["discriminator"]), strict=True
        ):
            fitting = _fitting(network, tensors)
            if name == "generator":
                _refuse_strangers(network, fitting)
            ours = network.state_dict()
            for key, tensor in fitting.items():
                ours[key].copy_(tensor)
            left = [key for key in ours if key not in fitting]
            rest = f"; begin anew: {_shortened(left)}" if left else ""
            say(f"pairs: {name} begins with {len(fitting)} of {len(ours)} tensors of --pairs.init-from{rest}")
    stage.ranks.share(tensor for network in networks.values() for tensor in network.state_dict().values())


def _fitting(network: nn.Module, weights: Tensors) -> dict[str, Tensor]:
    """What of `weights` fits, by the names of `network`."""
    ours, theirs = network.state_dict(), _from_below(weights)
    found = {name: theirs.get(below) for name, below in zip(ours, _from_below(ours), strict=True)}
    return {name: tensor for name, tensor in found.items() if tensor is not None and tensor.shape == ours[name].shape}


def _refuse_strangers(network: nn.Module, fitting: Tensors) -> None:
    if not any(name.endswith("weight") for name in fitting):
        raise InputError("nothing of --pairs.init-from fits the networks of this run; give the same --network.* as there, or other weights")


def _from_below(tensors: Tensors) -> dict[str, Tensor]:
    """The blocks of a discriminator, which are numbered from the top, by their number from 4 px on; all others as they are.

    Its blocks at 8 px and so on are then the same at every resolution.
    """
    top = max((int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))), default=0)
    return {re.sub(r"^blocks\.(\d+)\.", lambda found: f"blocks-{top - int(found[1])}.", name): tensor for name, tensor in tensors.items()}


def _shortened(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
