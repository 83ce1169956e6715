"""Score a finished run by a named protocol."""

import json
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs._cli import main
from mvgan.config import InputError, Resources
from mvgan.data.shards import ShardSet
from mvgan.distributed.evaluate import evaluate
from mvgan.distributed.resources import session
from mvgan.evaluation import Question, parts_of, result_path
from mvgan.metrics.networks import NetworkFile
from mvgan.storage.run import read_run
from mvgan.validation import validate_resources


@dataclass(frozen=True)
class Flags:
    """Flags of this verb."""

    run: str = tyro.MISSING
    """Run folder or s3:// prefix of a finished run."""
    protocol: str = "random-2048"
    """Which real clips: styleganv (first 2,048 videos in sorted order, a random clip each), random-2048, all-clips (those
    that do not overlap), or digan (10 repeats of random-2048)."""
    against: str | None = None
    """Another shard set of the same frame size; without it that of the run."""
    frames: int = 16
    """Frames of a clip, at the stride of the run's stage 3."""
    generated: int = 2048
    """Generated videos, in each repeat."""
    features: str | None = None
    """TorchScript file (path or s3:// URI) of a feature network with the call of StyleGAN-V's I3D; without it the built-in one."""
    features_sha256: str | None = None
    """Hash that this file must have."""
    seed: int = 0
    """Of the choice of real clips and of the generated videos."""
    resources: Annotated[Resources, tyro.conf.arg(name="")] = field(default_factory=Resources)


def run(flags: Flags) -> None:
    """Write the result into the run folder and print it."""
    validate_resources(flags.resources)
    if not 0 <= flags.seed < 2**31:
        raise InputError(f"--seed is {flags.seed}; give a whole number from 0 on")
    folder, question = read_run(flags.run), Question(flags.protocol, flags.frames, flags.generated, flags.seed, _network(flags))
    against = flags.against or folder.data
    parts_of(folder, ShardSet.open(against), question)  # a mistake is told before a cluster starts
    with session(flags.resources):
        result = evaluate(folder, against, question, flags.resources)
    path = result_path(result)
    folder.store.write(path, json.dumps(result, indent=1).encode())
    clips = f"{result['real_clips'][0]} real and {result['generated_clips'][0]} generated clips of {flags.frames} frames"
    print(f"evaluate: {result['measure']}, {flags.protocol}: {result['distance']:.4g} +- {result['bootstrap_error']:.2g}, {clips}")
    print(f"{folder.uri}/{path}")


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
        "Compare a finished run's videos with real clips by a named protocol, in built-in features (which are not FVD) or those of a file.",
    )
