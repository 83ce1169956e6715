"""What a run gives to those who use it, in `export/`: weights as safetensors, and the config to rebuild the networks."""

import json

import numpy as np
from safetensors.torch import save

from mvgan.config import InputError, to_dict
from mvgan.data.shards import ShardSet
from mvgan.storage.commit import Commit
from mvgan.storage.run import RunFolder
from mvgan.train.committer import best_commit
from mvgan.train.state import from_bytes


def export_weights(folder: RunFolder, stage: str) -> None:
    """Write the weights that `pairs` or `video` has learned. The generator of pairs is the averaged one."""
    commit = _selected(folder) if stage == "pairs" else folder.require(stage)
    state = from_bytes(folder.commits(stage).read(commit, "state.pt"))
    name, weights = ("generator", state["ema"]) if stage == "pairs" else ("latent", state["latent"]["net"])
    folder.store.write(f"export/{name}.safetensors", save({key: value.contiguous() for key, value in weights.items()}))
    fps = float(np.median(ShardSet.open(folder.data, verify=False).fps))
    about = {"format_version": 1, "config": to_dict(folder.run), "fps": fps}
    folder.store.write("export/config.json", json.dumps(about, indent=1).encode())


def export_codes(folder: RunFolder) -> None:
    """Write the motion codes and what is known about them."""
    commit = folder.require("codes")
    for file in commit.files:
        folder.store.write(f"export/{file}", folder.commits("codes").read(commit, file))


def _selected(folder: RunFolder) -> Commit:
    """The commit of stage 1 that feeds stage 2."""
    last = folder.require("pairs")
    if folder.run.codes.select == "last":
        return last
    best = best_commit(folder.commits("pairs"))
    if best is None:
        raise InputError("codes.select best needs measures of stage 1; set pairs.evaluations to at least 1, or take codes.select last")
    return next(commit for commit in folder.commits("pairs").records() if commit.name == best)
