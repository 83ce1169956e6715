"""What is asked: a measure, by a protocol, in the features of a network."""

from dataclasses import dataclass
from typing import Literal

from mvgan.config import InputError, Run
from mvgan.metrics.networks import NetworkFile
from mvgan.metrics.protocol import PROTOCOLS
from mvgan.validation import check_pairs


Measure = Literal["clips", "pairs", "classes"]
"""Frechet distance of clips (FVD), of frame pairs (FID), or the Inception Score of clips."""

TRAINING = "training"
"""The protocol by which training measures itself: clips and pairs drawn as it draws them, in its numbers."""

PROTOCOL_WORDS = {name: protocol.what for name, protocol in PROTOCOLS.items()} | {
    TRAINING: "clips or pairs drawn as training draws them for its own measure, in the same numbers (pairs.eval_pairs, video.eval_clips)"
}
LEAST_CLASSES = 1000
"""Videos without which an Inception Score over 10 splits of 101 classes says little but how few there are."""

NUM_FRAMES, GENERATED = 16, 2048
"""Frames of a clip and generated samples, where nothing else is asked for: those of published figures."""


@dataclass(frozen=True)
class Question:
    """`generated` videos or pairs for each repeat of `protocol`, against real ones; clips of `num_frames` frames.

    network: the file whose features are compared; None takes the built-in ones.
    """

    measure: Measure
    protocol: str
    num_frames: int
    generated: int
    seed: int = 0
    network: NetworkFile | None = None

    @property
    def stage(self) -> str:
        """The stage whose commits it can be asked of."""
        return "pairs" if self.measure == "pairs" else "video"

    @property
    def repeats(self) -> int:
        """How often all is done anew."""
        return PROTOCOLS[self.protocol].repeats if self.protocol in PROTOCOLS else 1


def ask(
    run: Run, measure: Measure, protocol: str, frames: int | None, generated: int | None, seed: int | None, network: NetworkFile | None
) -> Question:
    """The question about `run`, with what is None as usual. Raises InputError for what cannot be asked."""
    if protocol not in PROTOCOL_WORDS:
        raise InputError(f"--protocol {protocol!r} is unknown; choose one of {', '.join(PROTOCOL_WORDS)}")
    if measure != "pairs":
        check_pairs(run)
    if measure == "classes" and network is None:
        raise InputError("--measure classes needs the probabilities of a network; give --features and --features-sha256 of a C3D file")
    given = {"--frames": frames, "--generated": generated, "--seed": seed}
    if measure == "classes" and protocol == TRAINING:
        raise InputError(f"training takes no Inception Score; give another --protocol than {TRAINING}")
    if protocol == TRAINING:
        if any(value is not None for value in given.values()):
            raise InputError(f"--protocol {TRAINING} takes those of the run; leave {', '.join(given)} away")
        count = run.pairs.eval_pairs if measure == "pairs" else run.video.eval_clips
        return Question(measure, protocol, _frames(run, measure, run.video.num_frames), count, run.seed, network)
    if measure == "pairs" and frames is not None:
        raise InputError("--frames says how long clips are, and pairs have two frames; leave it away")
    question = Question(measure, protocol, _frames(run, measure, frames), GENERATED if generated is None else generated, seed or 0, network)
    least = run.network.frames if measure == "pairs" else 3
    if question.num_frames < least or question.generated < 2:
        raise InputError(f"--frames {question.num_frames} and --generated {question.generated}: give at least {least} frames and 2 videos")
    if measure == "classes" and question.generated < LEAST_CLASSES:
        raise InputError(
            f"--generated {question.generated} is too few for an Inception Score; give at least {LEAST_CLASSES}, 2048 as published"
        )
    if not 0 <= question.seed < 2**31:
        raise InputError(f"--seed is {question.seed}; give a whole number from 0 on")
    return question


def _frames(run: Run, measure: Measure, frames: int | None) -> int:
    return run.network.frames if measure == "pairs" else NUM_FRAMES if frames is None else frames
