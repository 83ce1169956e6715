"""Evaluation on Ray: a task for some clips each; what an earlier evaluation has computed is not computed again."""

from typing import Any

import numpy as np

from mvgan import evaluation
from mvgan.config import ANOTHER_NAME, Resources
from mvgan.data.shards import ShardSet
from mvgan.distributed.resources import check_room
from mvgan.distributed.tasks import run_tasks, task_device
from mvgan.evaluation import Part, Question, cached, features_of, keep, measure, parts_of
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import open_store


def evaluate(folder: RunFolder, against: str, question: Question, resources: Resources) -> dict[str, Any]:
    """The answer to `question` about the run in `folder`, against the shard set at the URI `against`; Ray has been initialised.

    Raises InputError before work starts for what `parts_of` says.
    """
    shards = ShardSet.open(against)
    real, generated = parts_of(folder, shards, question)
    parts = [part for repeats in (real, generated) for repeat in repeats for part in repeat]
    found = {part.key: cached(folder.store, part) for part in parts}
    missing = list({part.key: part for part in parts if found[part.key] is None}.values())
    print(f"evaluate: {len(parts)} parts of up to {evaluation.CLIPS_PER_TASK} clips, {len(parts) - len(missing)} of them known", flush=True)
    if missing:
        check_room(resources)
        lower = f"lower --frames, or --resolution {ANOTHER_NAME}"
        arguments = [(folder.uri, part) for part in missing]
        features = run_tasks(_features, arguments, resources, "evaluate", "parts", lower)
        found |= dict(zip((part.key for part in missing), features, strict=True))
    whole = [[np.concatenate([_known(found[part.key]) for part in repeat]) for repeat in repeats] for repeats in (real, generated)]
    return measure(question, folder, shards, *whole)


def _known(features: np.ndarray | None) -> np.ndarray:
    assert features is not None
    return features


def _features(run_uri: str, part: Part) -> np.ndarray:
    """The task of one part; keeps its features at once, so that an evaluation that is killed goes on from there."""
    features = features_of(part, task_device())
    keep(open_store(run_uri), part, features)
    return features
