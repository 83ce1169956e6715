"""What a run gives to those who use it, in `export/`: weights as safetensors, and the config to rebuild the networks."""

import json
import logging
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from mvgan.config import InputError, to_dict
from mvgan.data.shards import ShardSet
from mvgan.storage.commit import Damaged
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import Store
from mvgan.train.committer import measured_commits
from mvgan.train.state import from_bytes


logger = logging.getLogger(__name__)


def export_weights(folder: RunFolder, stage: str) -> None:
    """Write the weights that `pairs` or `video` has learned. The generator of pairs is the averaged one."""
    last = folder.require(stage)
    best = stage == "pairs" and folder.run.codes.select == "best"
    state = from_bytes(_best_state(folder) if best else folder.commits(stage).read(last, "state.pt"))
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


def read_json(store: Store, name: str) -> dict[str, Any]:
    """What `export/<name>` of the run at `store` says. Raises InputError when it is missing or damaged."""
    try:
        content = json.loads(_read(store, name))
    except ValueError as error:
        raise damaged(store, name, error) from None
    if not isinstance(content, dict):
        raise damaged(store, name, f"it holds {type(content).__name__}")
    return content


def read_tensors(store: Store, name: str, *needed: str) -> dict[str, Tensor]:
    """The tensors in `export/<name>` of the run at `store`. Raises InputError when it is missing, damaged or without one `needed`."""
    try:
        tensors = load(_read(store, name))
    except SafetensorError as error:
        raise damaged(store, name, error) from None
    for tensor in needed:
        if tensor not in tensors:
            raise damaged(store, name, f"tensor {tensor} is missing")
    return tensors


def load_weights(store: Store, name: str, network: nn.Module) -> None:
    """Give `network` the weights in `export/<name>` of the run at `store`. Raises InputError when they are not there or not its own."""
    tensors = read_tensors(store, name, *network.state_dict())
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise damaged(store, name, f"its tensors are not those of the settings: {str(error).splitlines()[-1].strip()}") from None


def damaged(store: Store, name: str, reason: object) -> InputError:
    """The error that tells a user of a file in `export/`."""
    words = " ".join(str(reason).split())
    return InputError(f"{store.uri}/export/{name} is damaged ({words}); run its `python -m jobs.pipeline` again, which exports anew")


def _read(store: Store, name: str) -> bytes:
    try:
        return store.read(f"export/{name}")
    except FileNotFoundError:
        raise InputError(f"{store.uri}/export has no {name}: the run has not finished; run `python -m jobs.pipeline` on it first") from None


def _best_state(folder: RunFolder) -> bytes:
    """The state of the measured commit of stage 1 with the smallest Frechet distance whose files verify; warns of better ones."""
    commits = folder.commits("pairs")
    damaged = ""
    for commit in measured_commits(commits):
        try:
            return commits.read(commit, "state.pt")
        except Damaged as error:
            damaged = str(error)
            logger.warning("commit %s, the best by its Frechet distance, is passed over: %s", commit.name, error)
    if damaged:
        raise InputError(f"codes.select best: all measured commits are damaged ({damaged}); restore them, or take --codes.select last")
    raise InputError("codes.select best needs measures of stage 1; set pairs.evaluations to at least 1, or take codes.select last")
