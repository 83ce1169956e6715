"""What an evaluation says, with all that it depends on."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from mvgan.data.shards import ShardSet
from mvgan.evaluation.distances import Distance, Samples
from mvgan.evaluation.kept import Arrays
from mvgan.evaluation.parts import features_sha256
from mvgan.evaluation.question import PROTOCOL_WORDS, Question
from mvgan.evaluation.subject import Subject
from mvgan.metrics.clips import ClipSums, compare
from mvgan.metrics.features import CLIP_LABEL, LABEL
from mvgan.metrics.frechet import RESAMPLES
from mvgan.metrics.inception_score import inception_score
from mvgan.metrics.networks import described
from mvgan.storage.run import RunFolder


SPLITS = 10
"""Of an Inception Score, as published ones have."""


def measure(
    question: Question,
    subject: Subject,
    folder: RunFolder,
    shards: ShardSet,
    real: Sequence[Samples],
    generated: Sequence[Samples],
    distances: Sequence[Mapping[str, Distance]],
) -> dict[str, Any]:
    """The result from the samples of each repeat and their distances by the features they are of; a score of classes needs none."""
    repeats = [_score(ours) for ours in generated] if question.measure == "classes" else [_distances(found) for found in distances]
    means = {key: float(np.mean([figures[key] for figures in repeats if key in figures])) for key in {**repeats[0], **repeats[-1]}}
    if len(repeats) > 1:
        means["error"] = float(np.std([next(iter(figures.values())) for figures in repeats], ddof=1))
    clips = {"clips": _compared(generated[0].figures, real[0].figures)} if question.measure == "clips" else {}
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
        "stride": list(folder.run.interval) if question.num_frames == 2 else folder.run.stride,
        "versions": {"mvgan": version("mvgan"), "torch": torch.__version__},
        "real_samples": [samples.count for samples in real],
        "generated_samples": [samples.count for samples in generated],
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
    return f"standard deviation over {RESAMPLES} draws of both sets of samples with replacement"


def words(question: Question) -> str:
    """What is measured, so that no figure passes for another one."""
    if question.network is None:
        return f"Frechet distance of {LABEL if question.measure == 'pairs' else CLIP_LABEL}"
    network, _ = described(question.measure, question.network)
    if question.measure == "classes":
        return f"Inception Score by {network}"
    what = "single frames" if question.num_frames == 1 else "frames, mean of those of former and of latter frames,"
    return f"Frechet distance of {what if question.measure == 'pairs' else 'clips'} in features of {network}"


def _score(generated: Samples) -> dict[str, float]:
    score = inception_score(torch.from_numpy(generated.figures["probabilities"]), SPLITS)
    return {"score": score.mean, "error": score.error}


def _distances(found: Mapping[str, Distance]) -> dict[str, float]:
    """The figures of one repeat; the first is the one that counts."""
    values = {array: max(distance.value, 0.0) for array, distance in found.items()}
    resampled = {array: distance.resampled for array, distance in found.items() if distance.resampled}
    figures = {"distance": float(np.mean(list(values.values())))}
    if resampled:
        figures["error"] = float(np.std(np.mean(list(resampled.values()), axis=0), ddof=1))
    if len(found) > 1:
        figures |= values | {f"{array}_error": float(np.std(some, ddof=1)) for array, some in resampled.items()}
    below = [distance.value for distance in found.values() if distance.value < 0]
    return figures | ({"below_zero_by_rounding": min(below)} if below else {})


def _compared(generated: Arrays, real: Arrays) -> dict[str, Any]:
    ours, theirs = (ClipSums({key: arrays[key] for key in ClipSums().arrays}) for arrays in (generated, real))
    return compare(ours, theirs)


def _prepared(question: Question) -> str:
    return described(question.measure, question.network)[1] if question.network else "to [-1, 1], averaged down to at most 64 px"


def result_path(question: Question, result: dict[str, Any]) -> str:
    """Where the result belongs in the run folder: another place for other features, data or networks, so that none is lost."""
    hashes = "".join(result[key] for key in ("features_sha256", "data_content_hash", "generator_sha256", "subject"))
    name = f"{question.measure}-{question.protocol}-{question.num_frames}-{question.generated}-{question.seed}"
    return f"evaluation/{name}-{hashlib.sha256(hashes.encode()).hexdigest()[:12]}.json"


def best(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The result of the nearest networks, or of those with the highest score."""
    return min(results, key=lambda result: float(-result["score"] if "score" in result else result["distance"]))
