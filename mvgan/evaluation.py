"""Evaluation of a finished run: its videos against real clips, chosen by a named protocol.

Every part is a plain function of what it is given, for a task of its own: the features of some clips. `measure` puts them together.
"""

import functools
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvgan.config import InputError
from mvgan.data.shards import ShardSet
from mvgan.data.windows import Item, decode_window
from mvgan.metrics.features import CLIP_LABEL, ClipFeatures
from mvgan.metrics.frechet import frechet_distance, frechet_error
from mvgan.metrics.moments import Moments
from mvgan.metrics.networks import ClipNetwork, NetworkFile
from mvgan.metrics.protocol import PROTOCOLS, Place, real_clips
from mvgan.sample import Generator
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import Store


CLIPS_PER_TASK = 32
PREPARED = ("to [-1, 1], averaged down to at most 64 px", "rescaled and resized by the network")
CACHE = "evaluation/features"
EXPORTS = ("generator.safetensors", "codes.safetensors", "latent.safetensors")


@dataclass(frozen=True)
class Question:
    """What is asked: clips of `num_frames` frames by `protocol`, against `generated` videos of each repeat.

    network: the file whose features are compared; None takes the built-in ones.
    """

    protocol: str
    num_frames: int
    generated: int
    seed: int = 0
    network: NetworkFile | None = None

    @property
    def features_sha256(self) -> str:
        """What the features are computed by."""
        return _features_sha256(self.network)

    @property
    def measure(self) -> str:
        """What the result is, in words."""
        return f"Frechet distance in features of {self.network.uri}" if self.network else f"Frechet distance of {CLIP_LABEL}"


@dataclass(frozen=True)
class Part:
    """Some clips whose features one task computes: real ones at `places` of the shards, or the videos of `seeds`.

    source: URI of the shard set or of the run. content: the hash of what lies there. `stride`: video frames between two frames
    of a real clip.
    """

    kind: str
    source: str
    content: str
    num_frames: int
    stride: int = 1
    places: tuple[Place, ...] = ()
    seeds: tuple[int, ...] = ()
    network: NetworkFile | None = None

    @property
    def key(self) -> str:
        """The name of its features in the cache: a hash of all that they depend on."""
        about = {**asdict(self), "network": _features_sha256(self.network)}
        del about["source"]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


@functools.cache
def _features_sha256(network: NetworkFile | None) -> str:
    return network.sha256.lower() if network else ClipFeatures().sha256


def parts_of(folder: RunFolder, shards: ShardSet, question: Question) -> tuple[list[list[Part]], list[list[Part]]]:
    """The parts of the real and of the generated clips of each repeat.

    Raises InputError when the run has not finished, the sizes of frames differ, the protocol finds too few clips, or the feature network
    is another than named or gives no features of such clips.
    """
    if question.protocol not in PROTOCOLS:
        raise InputError(f"--protocol {question.protocol!r} is unknown; choose one of {', '.join(PROTOCOLS)}")
    if question.num_frames < 3 or question.generated < 2:
        raise InputError(f"--frames {question.num_frames} and --generated {question.generated}: give at least 3 frames and 2 videos")
    folder.require("video")
    run = folder.run
    if question.network:
        ClipNetwork(question.network)(torch.zeros(1, question.num_frames, 3, run.resolution, run.resolution, dtype=torch.uint8))
    if shards.resolution != run.resolution:
        raise InputError(
            f"the shards have frames of {shards.resolution} px and the run of {run.resolution}; give shards of {run.resolution} px"
        )
    protocol, stride = PROTOCOLS[question.protocol], run.stride
    names = [video["source"] for video in shards.manifest["videos"]]
    real = [
        [
            Part("real", shards.uri, shards.content_hash, question.num_frames, stride, places=tuple(some), network=question.network)
            for some in _split(places)
        ]
        for places in real_clips(protocol, names, shards.lengths.tolist(), question.num_frames, question.seed, stride)
    ]
    content = generator_sha256(folder.store)
    first = question.seed * protocol.repeats * question.generated
    generated = [
        [Part("generated", folder.uri, content, question.num_frames, seeds=tuple(some), network=question.network) for some in _split(seeds)]
        for seeds in (
            range(start, start + question.generated)
            for start in range(first, first + protocol.repeats * question.generated, question.generated)
        )
    ]
    return real, generated


def generator_sha256(store: Store) -> str:
    """Hash of the exported networks of a run. Raises InputError when one is missing."""
    try:
        return hashlib.sha256(b"".join(hashlib.sha256(store.read(f"export/{name}")).digest() for name in EXPORTS)).hexdigest()
    except FileNotFoundError:
        files = ", ".join(EXPORTS)
        raise InputError(f"run {store.uri} lacks one of {files} in export/; run `python -m jobs.video` on it again") from None


def features_of(part: Part, device: torch.device) -> np.ndarray:
    """Features float32 [n, dim] of the clips of `part`."""
    if part.kind == "real":
        shards = ShardSet.open(part.source, verify=False)
        if shards.content_hash != part.content:
            raise InputError(f"{part.source} has changed since the evaluation began; leave it as it is, and evaluate again")
        offsets = range(0, part.num_frames * part.stride, part.stride)
        clips = decode_window(
            shards, [Item(place.video, tuple(place.start + offset for offset in offsets), False) for place in part.places]
        )
    else:
        clips = Generator.load(part.source, device).sample(part.seeds, part.num_frames)
    return _features(part.network, device)(torch.from_numpy(clips)).numpy()


@functools.lru_cache(maxsize=1)
def _features(network: NetworkFile | None, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Once a process: a network of a file takes longer to load than some clips to go through it."""
    return ClipNetwork(network, device) if network else ClipFeatures(device=device)


def cached(store: Store, part: Part) -> np.ndarray | None:
    """The features of `part`, where an evaluation has left them in the run folder."""
    path = f"{CACHE}/{part.key}.npy"
    return np.load(io.BytesIO(store.read(path)), allow_pickle=False) if store.exists(path) else None


def keep(store: Store, part: Part, features: np.ndarray) -> None:
    """Leave the features of `part` for later evaluations."""
    out = io.BytesIO()
    np.save(out, features, allow_pickle=False)
    store.write(f"{CACHE}/{part.key}.npy", out.getvalue())


def measure(
    question: Question, folder: RunFolder, shards: ShardSet, real: Sequence[np.ndarray], generated: Sequence[np.ndarray]
) -> dict[str, Any]:
    """The result from the features [n, dim] of each repeat, with all that it depends on."""
    pairs = [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in zip(real, generated, strict=True)]
    distances = [frechet_distance(Moments.of(a), Moments.of(b)) for a, b in pairs]
    return {
        "measure": question.measure,
        "distance": float(np.mean(distances)),
        "bootstrap_error": frechet_error(*pairs[0]),
        "repeats": distances,
        "protocol": question.protocol,
        "protocol_says": PROTOCOLS[question.protocol].what,
        "seed": question.seed,
        "frames": question.num_frames,
        "stride": folder.run.stride,
        "real_clips": [len(part) for part in real],
        "generated_clips": [len(part) for part in generated],
        "preprocessing": f"frames of {shards.resolution} px as ingest made them, uint8; " + PREPARED[question.network is not None],
        "truncation": 1.0,
        "features_sha256": question.features_sha256,
        "generator_sha256": generator_sha256(folder.store),
        "data": shards.uri,
        "data_content_hash": shards.content_hash,
    }


def result_path(result: dict[str, Any]) -> str:
    """Where the result belongs in the run folder: another place for other features, data or networks, so that none is lost."""
    hashes = "".join(result[key] for key in ("features_sha256", "data_content_hash", "generator_sha256"))
    name = f"{result['protocol']}-{result['frames']}-{result['generated_clips'][0]}-{result['seed']}"
    return f"evaluation/{name}-{hashlib.sha256(hashes.encode()).hexdigest()[:12]}.json"


def _split(clips: Sequence[Any]) -> list[Sequence[Any]]:
    return [clips[start : start + CLIPS_PER_TASK] for start in range(0, len(clips), CLIPS_PER_TASK)]
