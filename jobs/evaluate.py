"""Score a run, or its commits, by a named protocol."""

import json
from dataclasses import dataclass
from typing import Any

import tyro

from jobs._cli import Machines, main
from mvgan.config import InputError
from mvgan.data.shards import ShardSet
from mvgan.distributed.evaluate import evaluate
from mvgan.distributed.resources import session
from mvgan.evaluation.parts import check, real_parts
from mvgan.evaluation.question import Measure, ask
from mvgan.evaluation.result import best, result_path, words
from mvgan.evaluation.subject import forget, subjects
from mvgan.metrics.networks import NetworkFile
from mvgan.storage.run import read_run
from mvgan.train.export import export_card
from mvgan.validation import validate_resources


@dataclass(frozen=True)
class Flags(Machines):
    """Flags of this verb."""

    run: str = tyro.MISSING
    """Run folder or s3:// prefix."""
    measure: Measure = "clips"
    """clips: Frechet distance of videos (FVD), with motion, drift of content and diversity. pairs: of frame pairs (FID of former and
    latter frames). classes: Inception Score of videos."""
    protocol: str = "random-2048"
    """Which real clips or pairs: styleganv (first 2,048 videos in sorted order, a random clip each), random-2048, all-clips
    (those that do not overlap), digan (10 repeats of random-2048), or training (as training measures itself)."""
    against: str | None = None
    """Another shard set of the same frame size; without it that of the run."""
    commit: str | None = None
    """A commit of stage 3 (of stage 1 with --measure pairs) by its name, or all; without it the exported networks."""
    frames: int | None = None
    """Frames of a clip, at the stride of the run's stage 3; without it 16. Published figures have 16 or 128."""
    generated: int | None = None
    """Generated videos or pairs, in each repeat; without it 2048."""
    features: str | None = None
    """File of a feature network (path or s3:// URI), without it the built-in one, whose figures are neither FVD nor FID. clips:
    I3D as of StyleGAN-V, or what `features check --out` wrote. pairs: Inception as of StyleGAN2-ADA. classes: C3D as of StyleGAN-V."""
    features_sha256: str | None = None
    """Hash that this file must have."""
    seed: int | None = None
    """Of the choice of real samples and of the generated ones; without it 0."""


def run(flags: Flags) -> None:
    """Write the results into the run folder and print them."""
    validate_resources(flags.resources)
    folder = read_run(flags.run)
    question = ask(folder.run, flags.measure, flags.protocol, flags.frames, flags.generated, flags.seed, _network(flags))
    shards = ShardSet.open(flags.against or folder.data)
    check(folder, shards, question)
    real = real_parts(folder, shards, question)
    results, found = [], subjects(folder, question.stage, flags.commit)
    try:
        print(f"evaluate: {words(question)}, protocol {flags.protocol}", flush=True)
        with session(flags.resources):
            for result in evaluate(folder, shards, question, real, found, flags.resources):
                path = result_path(question, result)
                folder.store.write(path, json.dumps(result, indent=1).encode())
                print(f"evaluate: {_told(result)}\n{folder.uri}/{path}", flush=True)
                results.append(result)
    finally:
        forget(folder, found)
    export_card(folder)
    if len(results) > 1:
        print(f"evaluate: best is {best(results)['subject']}")


def _told(result: dict[str, Any]) -> str:
    figure = result["score"] if "score" in result else result["distance"]
    sides = f" (former {result['former']:.4g}, latter {result['latter']:.4g})" if "former" in result else ""
    counts = f"{result['generated_samples'][0]} generated, {result['real_samples'][0]} real"
    return f"{result['subject']}: {result['measure']}, {result['protocol']}: {figure:.4g} +- {result['error']:.2g}{sides}, {counts}"


def _network(flags: Flags) -> NetworkFile | None:
    if (flags.features is None) != (flags.features_sha256 is None):
        raise InputError("--features and --features-sha256 belong together; give both, or neither for the built-in features")
    if flags.features is None or flags.features_sha256 is None:
        return None
    return NetworkFile(flags.features, flags.features_sha256)


if __name__ == "__main__":
    main(
        run,
        Flags,
        "Compare a run's videos or pairs with real ones by a named protocol, in built-in features (neither FVD nor FID) or a file's.",
    )
