"""What an evaluation says, with all that it depends on."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from mvgan.data.shards import ShardSet
from mvgan.evaluation.parts import Arrays, features_sha256
from mvgan.evaluation.question import PROTOCOL_WORDS, Question
from mvgan.evaluation.subject import Subject
from mvgan.metrics.clips import ClipSums, compare
from mvgan.metrics.features import CLIP_LABEL, LABEL
from mvgan.metrics.inception_score import inception_score
from mvgan.metrics.networks import described
from mvgan.storage.run import RunFolder
from mvgan.train.measure import distance


JOINED = ("features", "former", "latter", "probabilities", "motion", "within")
"""Arrays with a row a sample; the others are sums over samples."""


def join(parts: Sequence[Arrays]) -> Arrays:
    """The figures of all parts together, which are of one kind; none of none."""
    keys = parts[0].keys() if parts else ()
    return {key: np.concatenate([part[key] for part in parts]) if key in JOINED else sum(part[key] for part in parts) for key in keys}  # type: ignore[misc]


def measure(
    question: Question, subject: Subject, folder: RunFolder, shards: ShardSet, real: Sequence[Arrays], generated: Sequence[Arrays]
) -> dict[str, Any]:
    """The result from the figures of each repeat."""
    repeats = [_figures(question, ours, theirs) for ours, theirs in zip(generated, real, strict=True)]
    means = {key: float(np.mean([figures[key] for figures in repeats])) for key in repeats[0]}
    clips = {"clips": _compared(generated[0], real[0])} if question.measure == "clips" else {}
    return {
        "measure": words(question),
        # The error of one repeat tells what its samples leave open; that of repeats is their deviation.
        **means,
        "repeats": repeats,
        **clips,
        "protocol": question.protocol,
        "protocol_says": PROTOCOL_WORDS[question.protocol],
        "seed": question.seed,
        "frames": question.num_frames,
        "stride": list(folder.run.interval) if question.measure == "pairs" else folder.run.stride,
        "real_samples": [_count(arrays) for arrays in real],
        "generated_samples": [_count(arrays) for arrays in generated],
        "preprocessing": f"frames of {shards.resolution} px as ingest made them, uint8; " + _prepared(question),
        "truncation": 1.0,
        "features": asdict(question.network) if question.network else "built in",
        "features_sha256": features_sha256(question.measure, question.network),
        "subject": subject.words,
        "generator_sha256": subject.sha256,
        "data": shards.uri,
        "data_content_hash": shards.content_hash,
    }


def words(question: Question) -> str:
    """What is measured, so that no figure passes for another one."""
    if question.network is None:
        return f"Frechet distance of {LABEL if question.measure == 'pairs' else CLIP_LABEL}"
    network, _ = described(question.measure, question.network)
    if question.measure == "classes":
        return f"Inception Score by {network}"
    what = "frames, mean of those of former and of latter frames," if question.measure == "pairs" else "clips"
    return f"Frechet distance of {what} in features of {network}"


def _figures(question: Question, generated: Arrays, real: Arrays) -> dict[str, float]:
    """Those of one repeat; the first is the one that counts."""
    if question.measure == "classes":
        score = inception_score(torch.from_numpy(generated["probabilities"]), min(10, len(generated["probabilities"])))
        return {"score": score.mean, "error": score.error}
    found = {
        key: distance(torch.from_numpy(real[key]), torch.from_numpy(generated[key]))
        for key in ("features", "former", "latter")
        if key in generated
    }
    if "features" in found:
        return {"distance": found["features"]["frechet"], "error": found["features"]["frechet_error"]}
    former, latter = found["former"], found["latter"]
    both = {"distance": (former["frechet"] + latter["frechet"]) / 2, "error": (former["frechet_error"] + latter["frechet_error"]) / 2}
    return both | {"former": former["frechet"], "latter": latter["frechet"]}


def _compared(generated: Arrays, real: Arrays) -> dict[str, Any]:
    ours, theirs = (ClipSums({key: arrays[key] for key in ClipSums().arrays}) for arrays in (generated, real))
    return compare(ours, theirs)


def _count(arrays: Arrays) -> int:
    return next((len(rows) for key, rows in arrays.items() if key in JOINED), 0)


def _prepared(question: Question) -> str:
    return described(question.measure, question.network)[1] if question.network else "to [-1, 1], averaged down to at most 64 px"


def result_path(question: Question, result: dict[str, Any]) -> str:
    """Where the result belongs in the run folder: another place for other features, data or networks, so that none is lost."""
    hashes = "".join(result[key] for key in ("features_sha256", "data_content_hash", "generator_sha256"))
    name = f"{question.measure}-{question.protocol}-{question.num_frames}-{question.generated}-{question.seed}"
    return f"evaluation/{name}-{hashlib.sha256(hashes.encode()).hexdigest()[:12]}.json"


def best(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The result of the nearest networks, or of those with the highest score."""
    key: Callable[[dict[str, Any]], float] = lambda result: -result["score"] if "score" in result else result["distance"]  # noqa: E731
    return min(results, key=key)
