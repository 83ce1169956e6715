"""Weights that stage 1 begins with: those of another run, or a folder of safetensors as `import_weights` writes it."""

import re
from collections.abc import Mapping
from typing import TypedDict

import torch
from torch import Tensor, nn

from mvgan.config import InputError, Run
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
    store = open_store(source)
    if store.uri == open_store(uri).uri:
        raise InputError(f"--pairs.init-from {source} is the run itself; give another run or folder")
    if store.exists(RECORD):
        read_run(source)
    if not (store.exists(RECORD) and read_run(source).commits("pairs").records()) and not store.exists("generator.safetensors"):
        raise InputError(
            f"--pairs.init-from {source} has no weights; give the folder of a run that has a commit of stage 1, the export/ of a run, "
            "or what `python -m jobs.import_weights` wrote"
        )


def read_initial(source: str) -> Weights:
    """The weights at the URI `source`: of a run those of its newest commit of stage 1. Raises InputError when there are none."""
    store = open_store(source)
    if store.exists(RECORD):
        commits = read_run(source).commits("pairs")
        commit = commits.newest()
        if commit is None:
            raise InputError(f"run {source} has no commit of stage 1 to begin with; give another run for --pairs.init-from")
        state = from_bytes(commits.read(commit, "state.pt"))
        return {"generator": state["generator"], "ema": state["ema"], "discriminator": state["discriminator"]}
    generator = read_weights(store, "generator.safetensors")
    discriminator = read_weights(store, "discriminator.safetensors") if store.exists("discriminator.safetensors") else {}
    return {"generator": generator, "ema": generator, "discriminator": discriminator}


def begin_with(stage: PairStage, weights: Weights, say: Say) -> None:
    """Give the networks of `stage` what fits of `weights`: tensors of the same place and shape, also at another resolution.

    Says what was taken and what was not. Raises InputError when nothing fits.
    """
    taken = {
        "generator": _take(stage.generator, weights["generator"]),
        "averaged generator": _take(stage.ema, weights["ema"]),
        "discriminator": _take(stage.discriminator, weights["discriminator"]),
    }
    weights_left = {name for name in taken["generator"][1] if name.endswith("weight")}
    if weights_left.issuperset(name for name in stage.generator.state_dict() if name.endswith("weight")):
        raise InputError("nothing of --pairs.init-from fits the networks of this run; give the same --network.* as there, or other weights")
    for name, (fitting, left) in taken.items():
        rest = f"; begin anew: {_shortened(left)}" if left else ""
        say(f"pairs: {name} begins with {fitting} of {fitting + len(left)} tensors of --pairs.init-from{rest}")


@torch.no_grad()
def _take(network: nn.Module, weights: Tensors) -> tuple[int, list[str]]:
    """How many tensors fitted, and the names of the others."""
    ours = network.state_dict()
    theirs = _from_below(weights)
    left = []
    for name, place in _from_below(ours).items():
        found = theirs.get(name)
        if found is not None and found.shape == place.shape:
            place.copy_(found)
        else:
            left.append(name)
    return len(ours) - len(left), left


def _from_below(tensors: Tensors) -> dict[str, Tensor]:
    """The blocks of a discriminator, which are numbered from the top, by their number from 4 px on; all others as they are.

    Its blocks at 8 px and so on are then the same at every resolution.
    """
    top = max((int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))), default=0)
    return {re.sub(r"^blocks\.(\d+)\.", lambda found: f"blocks-{top - int(found[1])}.", name): tensor for name, tensor in tensors.items()}


def _shortened(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
