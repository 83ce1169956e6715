"""What an evaluation says, with all that it depends on."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from mvgan.data.shards import ShardSet
from mvgan.evaluation.parts import Arrays, features_sha256
from mvgan.evaluation.question import PROTOCOL_WORDS, Question
from mvgan.evaluation.subject import Subject
from mvgan.metrics.clips import ClipSums, compare
from mvgan.metrics.features import CLIP_LABEL, LABEL
from mvgan.metrics.frechet import frechet_distance, resampled_distances
from mvgan.metrics.inception_score import inception_score
from mvgan.metrics.moments import Moments
from mvgan.metrics.networks import described
from mvgan.storage.run import RunFolder


JOINED = ("features", "former", "latter", "probabilities", "motion", "within")
"""Arrays with a row a sample; the others are sums over samples."""

SPLITS = 10
"""Of an Inception Score, as published ones have."""


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
    if len(repeats) > 1:
        means["error"] = float(np.std([next(iter(figures.values())) for figures in repeats], ddof=1))
    clips = {"clips": _compared(generated[0], real[0])} if question.measure == "clips" else {}
    return {
        "measure": words(question),
        **means,
        "error_says": _error_says(question),
        "repeats": repeats,
        **clips,
        "protocol": question.protocol,
        "protocol_says": PROTOCOL_WORDS[question.protocol],
        "seed": question.seed,
        "frames": question.num_frames,
        "stride": list(folder.run.interval) if question.measure == "pairs" else folder.run.stride,
        "versions": {"mvgan": version("mvgan"), "torch": torch.__version__},
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


def _error_says(question: Question) -> str:
    if question.repeats > 1:
        return f"standard deviation over {question.repeats} repeats"
    if question.measure == "classes":
        return f"standard error of the mean over {SPLITS} splits"
    return "standard deviation over 20 draws of both sets of samples with replacement"


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
        score = inception_score(torch.from_numpy(generated["probabilities"]), SPLITS)
        return {"score": score.mean, "error": score.error}
    pairs = [
        (torch.from_numpy(real[key]), torch.from_numpy(generated[key])) for key in ("features", "former", "latter") if key in generated
    ]
    distances = [frechet_distance(Moments.of(a), Moments.of(b)) for a, b in pairs]
    error = torch.stack([resampled_distances(a, b) for a, b in pairs]).mean(0).std()
    figures = {"distance": float(np.mean(distances)), "error": float(error)}
    return figures if len(pairs) == 1 else figures | dict(zip(("former", "latter"), distances, strict=True))


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
    return min(results, key=lambda result: float(-result["score"] if "score" in result else result["distance"]))
