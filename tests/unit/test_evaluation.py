"""Evaluation of a finished run, in this process: parts, what they depend on, the result."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import evaluate as verb
from mvgan.config import InputError
from mvgan.data.shards import ShardSet
from mvgan.evaluation import Part, Question, cached, features_of, keep, measure, parts_of, result_path
from mvgan.metrics.features import ClipFeatures
from mvgan.metrics.frechet import frechet_distance
from mvgan.metrics.moments import Moments
from mvgan.metrics.networks import ClipNetwork
from mvgan.metrics.protocol import PROTOCOLS, Place
from mvgan.sample import Generator
from mvgan.storage.local import LocalStore
from mvgan.storage.run import RunFolder
from tests.unit.jobs.test_cli import refused
from tests.unit.metrics.test_networks import Published, saved


CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shards(tiny_run: RunFolder) -> ShardSet:
    return ShardSet.open(tiny_run.data)


def test_features_are_those_of_the_clips(tiny_run: RunFolder, shards: ShardSet) -> None:
    """Reference: whole videos decoded piece by piece and cut by hand; videos drawn by `Generator.sample`."""
    places = (Place(1, 3), Place(0, 0))
    found = features_of(Part("real", shards.uri, shards.content_hash, 4, stride=2, places=places), CPU)
    clips = []
    for place in places:
        video = np.concatenate([shards.frames(place.video, piece) for piece in range(shards.num_pieces(place.video))])
        clips.append(video[place.start :][:8:2])
    np.testing.assert_allclose(found, ClipFeatures()(torch.from_numpy(np.stack(clips))).numpy(), atol=1e-5)
    generated = features_of(Part("generated", tiny_run.uri, "", 5, seeds=(4, 2)), CPU)
    expected = ClipFeatures()(torch.from_numpy(Generator.load(tiny_run.uri).sample([4, 2], 5)))
    np.testing.assert_allclose(generated, expected.numpy(), atol=1e-5)


def test_shards_that_were_made_again_are_refused(shards: ShardSet) -> None:
    with pytest.raises(InputError, match="has changed since the evaluation began"):
        features_of(Part("real", shards.uri, "0", 4, places=(Place(0, 0),)), CPU)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_parts_hold_every_clip_once(tiny_run: RunFolder, shards: ShardSet, name: str) -> None:
    """At the stride of stage 3; each repeat has generated videos of its own, and another seed has others."""
    question = Question(name, 4, 40)
    real, generated = parts_of(tiny_run, shards, question)
    assert len(real) == len(generated) == PROTOCOLS[name].repeats
    for repeat in generated:
        assert len([seed for part in repeat for seed in part.seeds]) == 40
    seeds = [seed for repeat in generated for part in repeat for seed in part.seeds]
    other = [
        seed for repeat in parts_of(tiny_run, shards, dataclasses.replace(question, seed=1))[1] for part in repeat for seed in part.seeds
    ]
    assert len(set(seeds) | set(other)) == 2 * len(seeds)
    span = 3 * tiny_run.run.stride + 1
    assert all(place.start + span <= shards.lengths[place.video] for repeat in real for part in repeat for place in part.places)
    assert all(1 <= len(part.places) <= 32 and part.stride == tiny_run.run.stride for repeat in real for part in repeat)


def test_the_cache_knows_what_features_depend_on(tmp_path: object) -> None:
    """Any field but the place of the data makes other features."""
    part = Part("real", "a", "hash", 8, 2, (Place(0, 1), Place(1, 2)))
    others = [
        dataclasses.replace(part, **change)
        for change in (
            {"kind": "generated"}, {"content": "other"}, {"num_frames": 9}, {"stride": 1}, {"seeds": (1,)},
            {"places": (Place(1, 2), Place(0, 1))},
        )
    ]  # fmt: skip
    assert len({part.key, *(other.key for other in others)}) == 7
    assert dataclasses.replace(part, source="moved").key == part.key
    store, features = LocalStore(str(tmp_path)), np.random.default_rng(0).standard_normal((2, 96)).astype(np.float32)
    assert cached(store, part) is None
    keep(store, part, features)
    np.testing.assert_array_equal(cached(store, part), features)


def test_the_result_says_what_it_was_measured_with(tiny_run: RunFolder, shards: ShardSet) -> None:
    rng = np.random.default_rng(0)
    real, fake = ([rng.standard_normal((50, 96)).astype(np.float32) for _ in range(2)] for _ in range(2))
    result = measure(Question("digan", 16, 50, seed=3), tiny_run, shards, real, fake)
    expected = [frechet_distance(Moments.of(torch.from_numpy(a)), Moments.of(torch.from_numpy(b))) for a, b in zip(real, fake, strict=True)]
    assert result["repeats"] == expected and result["distance"] == pytest.approx(sum(expected) / 2)
    assert "not FVD" in result["measure"] and result["bootstrap_error"] > 0
    for key in (
        "protocol",
        "seed",
        "frames",
        "stride",
        "real_clips",
        "generated_clips",
        "preprocessing",
        "features_sha256",
        "generator_sha256",
    ):
        assert result[key] is not None
    assert json.loads(json.dumps(result)) == result
    for key in ("features_sha256", "data_content_hash", "generator_sha256"):
        assert result_path({**result, key: "other"}) != result_path(result), "would replace the result for something else"


def test_features_of_a_file(tiny_run: RunFolder, shards: ShardSet, tmp_path: Path) -> None:
    """Reference: the network itself, on the same clips; and other features are other entries of the cache."""
    file = saved(Published(), tmp_path / "i3d.pt")
    question = Question("all-clips", 4, 5, network=file)
    real, generated = parts_of(tiny_run, shards, question)
    found = features_of(generated[0][0], CPU)
    expected = ClipNetwork(file)(torch.from_numpy(Generator.load(tiny_run.uri).sample(generated[0][0].seeds, 4)))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    assert dataclasses.replace(real[0][0], network=None).key != real[0][0].key
    result = measure(question, tiny_run, shards, [features_of(real[0][0], CPU)], [found])
    assert result["features_sha256"] == file.sha256 and file.uri in result["measure"] and "by the network" in result["preprocessing"]
    other = "--run", tiny_run.uri, "--protocol", "all-clips", "--frames", "4", "--features", file.uri
    assert "has sha256" in refused(verb.run, verb.Flags, *other, "--features-sha256", "0" * 64)
    assert "belong together" in refused(verb.run, verb.Flags, *other)
    nothing = "--features", "", "--features-sha256", ""
    assert "--features is empty" in refused(verb.run, verb.Flags, *other[:6], *nothing)


def test_a_run_without_its_export_is_told(tiny_run: RunFolder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_run.uri, tmp_path / "run"))
    (folder / "export/latent.safetensors").unlink()
    assert "lacks one of" in refused(verb.run, verb.Flags, "--run", str(folder), "--frames", "4", "--generated", "4")


def test_mistakes_are_told_before_work_starts(tiny_run: RunFolder) -> None:
    assert "choose one of styleganv" in refused(verb.run, verb.Flags, "--run", tiny_run.uri, "--protocol", "other")
    assert "clips of 5000 frames at stride 2, from 9999" in refused(verb.run, verb.Flags, "--run", tiny_run.uri, "--frames", "5000")
    assert "at least 3 frames and 2 videos" in refused(verb.run, verb.Flags, "--run", tiny_run.uri, "--generated", "1")
    assert "whole number from 0 on" in refused(verb.run, verb.Flags, "--run", tiny_run.uri, "--seed", "-1")
    assert "holds no run" in refused(verb.run, verb.Flags, "--run", f"{tiny_run.uri}-nowhere")
