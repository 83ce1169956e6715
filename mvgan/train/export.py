"""What a run gives to those who use it, in `export/`: weights as safetensors, and the config to rebuild the networks."""

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from mvgan.config import ANOTHER_NAME, InputError, Run
from mvgan.data.shards import ShardSet
from mvgan.settings import to_dict
from mvgan.storage.commit import Commit, Damaged
from mvgan.storage.run import RECORD, RunFolder
from mvgan.storage.uri import Store
from mvgan.train import card
from mvgan.train.committer import measured_commits
from mvgan.train.state import from_bytes


logger = logging.getLogger(__name__)


WEIGHTS = {"pairs": "generator.safetensors", "video": "latent.safetensors"}
"""The file that a trained stage exports."""

EXPORTS = {"pairs": (WEIGHTS["pairs"],), "video": (WEIGHTS["pairs"], "codes.safetensors", WEIGHTS["video"])}
"""The files of what a stage has made together with those before it."""


def export_weights(folder: RunFolder, stage: str) -> None:
    """Write the weights that `pairs` or `video` has learned, and the model card. The generator of pairs is the averaged one."""
    last = folder.require(stage)
    best = (folder.run.codes if stage == "pairs" else folder.run.video).select == "best"
    commit, weights = _best_weights(folder, stage) if best else (last, committed_weights(folder, stage, last))
    folder.store.write(f"export/{WEIGHTS[stage]}", weights)
    fps = float(np.median(ShardSet.open(folder.data, verify=False).fps))
    images = exported_images(folder.store) | {stage: commit.images}
    about = {"format_version": 1, "config": to_dict(folder.run), "fps": fps, "images": images}
    folder.store.write("export/config.json", json.dumps(about, indent=1).encode())
    export_card(folder)


def committed_weights(folder: RunFolder, stage: str, commit: Commit) -> bytes:
    """The weights in a commit of `stage`, as the file that it would export. Raises Damaged."""
    state = from_bytes(folder.commits(stage).read(commit, "state.pt"))
    weights = state["ema"] if stage == "pairs" else state["latent"]["net"]
    return save({key: value.contiguous() for key, value in weights.items()})


def export_codes(folder: RunFolder) -> None:
    """Write the motion codes, what is known about them, and the model card."""
    commit = folder.require("codes")
    for file in commit.files:
        folder.store.write(f"export/{file}", folder.commits("codes").read(commit, file))
    export_card(folder)


def export_card(folder: RunFolder) -> None:
    """Write the model card of what is exported, `export/README.md`; nothing where nothing is.

    What in it is the user's is kept. A card in which that cannot be found is laid aside, and a warning says so.
    """
    store, present = folder.store, folder.store.list("export/")
    files = {name: store.read(f"export/{name}") for name in card.FILES if f"export/{name}" in present}
    if WEIGHTS["pairs"] not in files:
        return
    yours = card.Yours()
    if card.CARD in present:
        before = store.read(card.CARD)
        try:
            yours = card.yours_of(before.decode())
        except ValueError as error:
            aside = card.CARD.replace("README", f"README-{hashlib.sha256(before).hexdigest()[:12]}")
            store.write(aside, before)
            logger.warning("%s/%s is written anew, and the one before is now %s: %s", store.uri, card.CARD, aside, error)
    store.write(card.CARD, card.render(_card_facts(folder, files), yours).encode())


def _card_facts(folder: RunFolder, files: Mapping[str, bytes]) -> card.Facts:
    codes = _said(folder.store, "codes.json") if "codes.json" in files else {}
    of_these = codes.get("generator_sha256") == hashlib.sha256(files[WEIGHTS["pairs"]]).hexdigest()
    stages = ["pairs", *(["codes"] if of_these and "codes.safetensors" in files else [])]
    if "codes" in stages and WEIGHTS["video"] in files:
        stages.append("video")
    networks = {
        stage: networks_sha256({name: files[name] for name in EXPORTS[stage]}, folder.run, stage) for stage in EXPORTS if stage in stages
    }
    return card.Facts(
        folder.uri.rstrip("/").rpartition("/")[2], folder.run, ShardSet.open(folder.data, verify=False), files, stages,
        exported_images(folder.store), {stage: _measures(folder, stage) for stage in WEIGHTS}, codes, networks,
        _results(folder.store), json.loads(folder.store.read(RECORD)).get("versions", {}),
    )  # fmt: skip


def _measures(folder: RunFolder, stage: str) -> list[dict[str, Any]]:
    """The records of a stage that has ended, from its last commit."""
    commits = folder.commits(stage)
    last = next((commit for commit in commits.records() if commit.meta["complete"] and "history.json" in commit.files), None)
    return [] if last is None else json.loads(commits.read(last, "history.json"))


def exported_images(store: Store) -> dict[str, int]:
    """After how many images the weights in `export/` were taken, by their stages; empty when config.json does not say."""
    images = _said(store, "config.json").get("images", {}) if store.exists("export/config.json") else {}
    return images if isinstance(images, dict) else {}


def _said(store: Store, name: str) -> dict[str, Any]:
    """What `export/<name>` says; of a damaged one, which will be exported anew, nothing but a warning."""
    try:
        return read_json(store, name)
    except InputError as error:
        logger.warning("%s", error)
        return {}


def _results(store: Store) -> list[dict[str, Any]]:
    """The results of evaluations kept in the run at `store`, by their names. Warns of those that cannot be read and leaves them out."""
    found = []
    for path in store.list("evaluation/"):
        if path.count("/") != 1 or not path.endswith(".json"):
            continue
        try:
            result = json.loads(store.read(path))
            card.check_result(result)
        except (ValueError, LookupError, TypeError) as error:
            logger.warning("%s/%s is left out of the model card, as it is damaged: %s", store.uri, path, error)
            continue
        found.append(result)
    return found


def exported_files(store: Store, stage: str, own: bytes | None = None) -> dict[str, bytes]:
    """All `EXPORTS` of `stage` of the run at `store`, by their names; `own` in place of the weights of `stage` itself.

    Raises InputError when one is missing.
    """
    return {name: own if own is not None and name == WEIGHTS[stage] else read_exported(store, name) for name in EXPORTS[stage]}


def check_codes(store: Store, weights: bytes) -> None:
    """Raise InputError when the motion codes exported at `store` are of another generator than the one with these `weights`."""
    if read_json(store, "codes.json").get("generator_sha256") != hashlib.sha256(weights).hexdigest():
        raise InputError(
            f"{store.uri}/export has motion codes of another generator than its generator.safetensors (generator_sha256 in codes.json "
            f"tells); restore the files that were exported together, or find codes anew {ANOTHER_NAME}"
        )


def networks_sha256(files: Mapping[str, bytes], run: Run, stage: str) -> str:
    """Hash of the `EXPORTS` of a stage and of the settings by which they become networks."""
    settings = {"resolution": run.resolution, "network": to_dict(run.network)}
    if stage == "video":
        settings |= {key: getattr(run.video, key) for key in ("hidden", "residual", "first")}
    parts = [json.dumps(settings, sort_keys=True).encode(), *files.values()]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def read_json(store: Store, name: str) -> dict[str, Any]:
    """What `export/<name>` of the run at `store` says. Raises InputError when it is missing or damaged."""
    data = read_exported(store, name)
    try:
        content = json.loads(data)
    except ValueError as error:
        raise damaged(store, name, error) from None
    if not isinstance(content, dict):
        raise damaged(store, name, f"it holds {type(content).__name__}")
    return content


def read_tensors(store: Store, name: str, *needed: str, content: bytes | None = None) -> dict[str, Tensor]:
    """The tensors in `export/<name>` of the run at `store`, or in `content` in its place.

    Raises InputError when it is missing, damaged or without one `needed`.
    """
    try:
        tensors = load(read_exported(store, name) if content is None else content)
    except SafetensorError as error:
        raise damaged(store, name, error) from None
    for tensor in needed:
        if tensor not in tensors:
            raise damaged(store, name, f"tensor {tensor} is missing")
    return tensors


def read_weights(store: Store, name: str) -> dict[str, Tensor]:
    """The tensors in the safetensors file `name` at `store`, which need not be a run's. Raises InputError when it is damaged."""
    try:
        return load(store.read(name))
    except (SafetensorError, KeyError) as error:  # KeyError: numbers of a kind that torch has not
        raise InputError(f"{store.uri}/{name} is no safetensors file ({' '.join(str(error).split())}); make it again") from None


def load_weights(store: Store, name: str, network: nn.Module, content: bytes | None = None) -> None:
    """Give `network` the weights in `export/<name>` of the run at `store`, or in `content` in its place.

    Raises InputError when they are not there or not its own.
    """
    tensors = read_tensors(store, name, content=content)
    found, expected = ({key: list(tensor.shape) for key, tensor in some.items()} for some in (tensors, network.state_dict()))
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            shapes = f"{key} is {found.get(key, 'missing')}, expected {expected.get(key, 'none')}"
            raise damaged(store, name, f"its tensors are not those of the settings, such as resolution and channels: {shapes}")
    network.load_state_dict(tensors)


def damaged(store: Store, name: str, reason: object) -> InputError:
    """The error that tells a user of a file in `export/`."""
    words = " ".join(str(reason).split())
    return InputError(f"{store.uri}/export/{name} is damaged ({words}); run its `python -m jobs.pipeline` again, which exports anew")


def read_exported(store: Store, name: str) -> bytes:
    """The file `export/<name>` of the run at `store`. Raises InputError when there is none."""
    try:
        return store.read(f"export/{name}")
    except FileNotFoundError:
        raise _missing(store, name) from None


def _missing(store: Store, name: str) -> InputError:
    """The error that tells a user of an `export/` without the file `name`: that of an unfinished run, or a copy of one in part."""
    if store.exists(RECORD):
        return InputError(f"{store.uri}/export has no {name}: the run has not finished; run `python -m jobs.pipeline` on it first")
    present = store.list("export/")
    if not present:
        return InputError(f"{store.uri} holds no run and no export/ of one; give the folder that a training command printed")
    lacking = ", ".join(file for file in (*EXPORTS["video"], "codes.json", "config.json") if f"export/{file}" not in present)
    return InputError(f"{store.uri}/export lacks {lacking} of the files that a run exports together; copy them beside the others")


def _best_weights(folder: RunFolder, stage: str) -> tuple[Commit, bytes]:
    """The measured commit of `stage` with the smallest Frechet distance whose files verify, and its weights; warns of better ones."""
    damaged = ""
    for commit in measured_commits(folder.commits(stage)):
        try:
            return commit, committed_weights(folder, stage, commit)
        except Damaged as error:
            damaged = str(error)
            logger.warning("commit %s, the best by its Frechet distance, is passed over: %s", commit.name, error)
    setting = {"pairs": "codes.select", "video": "video.select"}[stage]
    if damaged:
        raise InputError(f"{setting} best: all measured commits are damaged ({damaged}); restore them, or take --{setting} last")
    raise InputError(f"{setting} best needs measures; set {stage}.evaluations to at least 1, or take {setting} last")
