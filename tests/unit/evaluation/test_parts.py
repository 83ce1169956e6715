"""The parts of an evaluation: what they hold, what their figures are, and what these depend on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mvgan.config import InputError
from mvgan.data.shards import ShardSet
from mvgan.data.windows import Item
from mvgan.evaluation.kept import Lost, keep, kept
from mvgan.evaluation.parts import Part, figures_of, generated_parts, real_parts
from mvgan.evaluation.question import PROTOCOL_WORDS, Measure, Question, ask
from mvgan.evaluation.subject import Subject, subjects
from mvgan.metrics.clips import ClipSums
from mvgan.metrics.features import ClipFeatures, PairFeatures
from mvgan.metrics.networks import FeatureNetwork, NetworkFile
from mvgan.metrics.protocol import PROTOCOLS
from mvgan.sample import Generator
from mvgan.storage.local import LocalStore
from mvgan.storage.run import RunFolder
from mvgan.train.state import Draws
from tests.unit.metrics.test_networks import C3D, Inception, Published, saved


CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def few_clips_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny run's data hold no 2,048 clips."""
    for name, protocol in PROTOCOLS.items():
        monkeypatch.setitem(PROTOCOLS, name, dataclasses.replace(protocol, least=2))


@pytest.fixture(scope="module")
def shards(tiny_run: RunFolder) -> ShardSet:
    return ShardSet.open(tiny_run.data)


@pytest.fixture(scope="module")
def exported(tiny_run: RunFolder) -> Subject:
    return subjects(tiny_run, "video", None)[0]


def test_figures_of_real_clips(shards: ShardSet) -> None:
    """Reference: whole videos decoded piece by piece and cut by hand."""
    items = (Item(1, (3, 5, 7, 9), False), Item(0, (0, 2, 4, 6), False))
    found = figures_of(Part("clips", shards.uri, shards.content_hash, items=items, new=(True, True)), CPU)
    clips, sums = [], ClipSums()
    for item in items:
        video = np.concatenate([shards.frames(item.video, piece) for piece in range(shards.num_pieces(item.video))])
        clips.append(video[list(item.frames)])
        sums.add(clips[-1])
    np.testing.assert_allclose(found["features"], ClipFeatures()(torch.from_numpy(np.stack(clips))).numpy(), atol=1e-5)
    for key, expected in sums.arrays.items():
        np.testing.assert_array_equal(found[key], expected)


def test_figures_of_generated_clips(tiny_run: RunFolder, exported: Subject) -> None:
    """Reference: `Generator.sample`, seed by seed."""
    found = figures_of(Part("clips", tiny_run.uri, "", subject=exported, start=4, count=2, num_frames=5), CPU)
    expected = ClipFeatures()(torch.from_numpy(Generator.load(tiny_run.uri).sample([4, 5], 5)))
    np.testing.assert_allclose(found["features"], expected.numpy(), atol=1e-5)


def test_figures_of_generated_pairs(tiny_run: RunFolder) -> None:
    """Reference: the pair generator itself on the same random numbers, 64 pairs from each draw."""
    (subject,) = subjects(tiny_run, "pairs", None)
    found = figures_of(Part("pairs", tiny_run.uri, "", subject=subject, count=70, seed=3, num_frames=2), CPU)
    network, frames = Generator.load(tiny_run.uri).pairs, []
    for start, count in ((0, 64), (64, 6)):
        draws = Draws(3, "evaluation", start, [0], count, CPU)
        w = network.mapping(draws.normal(tiny_run.run.network.z_dim))
        frames.append(network.synthesis(w, draws.noise(network.synthesis.noise_shapes()), torch.float32).clamp(-1, 1))
    # Frames are rounded to whole levels before they are compared, as real ones are; on the border some fall to the other side.
    levels = ((torch.cat(frames) + 1) * 127.5).round() / 127.5 - 1
    np.testing.assert_allclose(found["features"], PairFeatures()(levels).numpy(), atol=1e-3)


def test_shards_that_were_made_again_are_refused(shards: ShardSet) -> None:
    with pytest.raises(InputError, match="has changed since the evaluation began"):
        figures_of(Part("clips", shards.uri, "0", items=(Item(0, (0, 1, 2), False),)), CPU)


@pytest.mark.parametrize("measure", ["clips", "pairs"])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_parts_hold_every_sample_once(tiny_run: RunFolder, shards: ShardSet, exported: Subject, name: str, measure: Measure) -> None:
    """Clips at the stride of stage 3, pairs k apart in both orders; each repeat, and each seed, has generated samples of its own."""
    question = ask(tiny_run.run, measure, name, None if measure == "pairs" else 4, 300, None, None)
    real, generated = real_parts(tiny_run, shards, question), generated_parts(exported, question)
    assert len(real) == len(generated) == PROTOCOLS[name].repeats
    other = generated_parts(exported, dataclasses.replace(question, seed=1))
    drawn = [(part.seed, part.start + i) for parts in (*generated, *other) for part in parts for i in range(part.count)]
    assert len(set(drawn)) == len(drawn) == 2 * 300 * question.repeats
    size = {"clips": 32, "pairs": 256}[measure]
    stride = {"clips": tiny_run.run.stride, "pairs": tiny_run.run.interval[0]}[measure]
    for part in (part for parts in real for part in parts):
        assert 1 <= len(part.items) <= size
        assert len(part.new) == len(part.items)
        for item in part.items:
            assert {abs(b - a) for a, b in zip(item.frames, item.frames[1:], strict=False)} == {stride} and not item.mirror
            assert min(item.frames) >= 0 and max(item.frames) < shards.lengths[item.video]
    items = [item for part in real[0] for item in part.items]
    assert len({(item.video, min(item.frames)) for item in items}) == len(items), "a clip comes twice"
    assert [item.video for part in real[0] for item, new in zip(part.items, part.new, strict=True) if new] == list(
        dict.fromkeys(item.video for item in items)
    )
    if measure == "pairs" and len(items) > 50:
        assert 0.25 < np.mean([item.frames[0] > item.frames[1] for item in items]) < 0.75, "one order is missing"


def test_every_interval_of_a_mixed_set_is_measured(tiny_run: RunFolder, shards: ShardSet) -> None:
    mixed = dataclasses.replace(tiny_run, run=dataclasses.replace(tiny_run.run, interval=(2, 5)))
    (parts,) = real_parts(mixed, shards, ask(mixed.run, "pairs", "styleganv", None, 4, None, None))
    intervals = [abs(item.frames[1] - item.frames[0]) for part in parts for item in part.items]
    assert intervals.count(2) == intervals.count(5) == len(shards)


def test_the_cache_knows_what_figures_depend_on(tmp_path: Path, exported: Subject) -> None:
    """Any field but the place of the data makes other figures."""
    part = Part("clips", "a", "hash", items=(Item(0, (1, 2, 3), False), Item(1, (2, 3, 4), False)), num_frames=3)
    others = [
        dataclasses.replace(part, **change)
        for change in (
            {"measure": "pairs"}, {"content": "other"}, {"new": (True, False)}, {"num_frames": 9}, {"start": 1}, {"count": 1}, {"seed": 1},
            {"subject": exported},
            {"items": part.items[::-1]}, {"network": saved(Published(), tmp_path / "i3d.pt")},
        )
    ]  # fmt: skip
    assert len({part.key, *(other.key for other in others)}) == 11
    assert dataclasses.replace(part, source="moved").key == part.key
    store, figures = LocalStore(str(tmp_path)), {"features": np.random.default_rng(0).standard_normal((2, 96)), "square": np.array(3.0)}
    with pytest.raises(Lost, match="is gone"):
        kept(store, part.key)
    keep(store, part.key, figures)
    found = kept(store, part.key)
    assert found.keys() == figures.keys()
    for key, value in figures.items():
        np.testing.assert_array_equal(found[key], value)


def test_long_clips_come_in_smaller_parts(tiny_run: RunFolder, exported: Subject) -> None:
    (parts,) = generated_parts(exported, ask(tiny_run.run, "clips", "all-clips", 128, 10, None, None))
    assert [part.count for part in parts] == [4, 4, 2]


def test_figures_by_the_network_of_a_file(tiny_run: RunFolder, shards: ShardSet, exported: Subject, tmp_path: Path) -> None:
    """Reference: the network itself, on the same samples."""
    clips = torch.from_numpy(Generator.load(tiny_run.uri).sample(range(5), 4))
    for measure, network, keys in (
        ("clips", Published(), ("features",)), ("classes", C3D(), ("probabilities",)), ("pairs", Inception(), ("former", "latter")),
    ):  # fmt: skip
        file = saved(network, tmp_path / f"{measure}.pt")
        question = Question(measure, "all-clips", 2 if measure == "pairs" else 4, 5, network=file)  # type: ignore[arg-type]
        (part,) = generated_parts(exported, question)[0]
        found = figures_of(part, CPU)
        if measure == "pairs":
            assert {key: value.shape for key, value in found.items()} == {"former": (5, 2048), "latter": (5, 2048)}
            assert not np.array_equal(found["former"], found["latter"])
            continue
        np.testing.assert_allclose(found[keys[0]], FeatureNetwork(measure, file)(clips).numpy(), atol=1e-6)
        assert bool(real_parts(tiny_run, shards, question)[0]) == (measure == "clips"), "a score of classes compares with nothing"


def test_what_can_be_asked(tiny_run: RunFolder) -> None:
    run = tiny_run.run
    assert ask(run, "clips", "digan", None, None, None, None) == Question("clips", "digan", 16, 2048)
    assert ask(run, "pairs", "training", None, None, None, None) == Question("pairs", "training", 2, run.pairs.eval_pairs, run.seed)
    assert set(PROTOCOL_WORDS) == {*PROTOCOLS, "training"}
    for asked, message in (
        (("clips", "other", None, None, None, None), "choose one of styleganv"),
        (("classes", "digan", None, None, None, None), "needs the probabilities of a network"),
        (("clips", "training", 16, None, None, None), "takes those of the run"),
        (("classes", "training", None, None, None, NetworkFile("x", "0")), "training takes no Inception Score"),
        (("pairs", "digan", 16, None, None, None), "pairs have two frames"),
        (("clips", "digan", 2, None, None, None), "at least 3 frames and 2 videos"),
        (("clips", "digan", None, 1, None, None), "at least 3 frames and 2 videos"),
        (("clips", "digan", None, None, -1, None), "whole number from 0 on"),
        (("classes", "digan", None, 999, None, NetworkFile("x", "0")), "too few for an Inception Score"),
    ):
        with pytest.raises(InputError, match=message):
            ask(run, *asked)  # type: ignore[arg-type]
