"""What an evaluation says: the figures, what they were measured with, and where they are kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import evaluate as verb
from mvgan.data.shards import ShardSet
from mvgan.evaluation.distances import Distance, Samples, compared, comparisons, joined
from mvgan.evaluation.kept import keep
from mvgan.evaluation.parts import Part, recall
from mvgan.evaluation.question import Question
from mvgan.evaluation.result import best, measure, result_path
from mvgan.evaluation.subject import Subject
from mvgan.metrics.frechet import frechet_distance, frechet_error
from mvgan.metrics.moments import Moments
from mvgan.storage.run import RunFolder
from tests.unit.jobs.test_cli import refused
from tests.unit.metrics.test_networks import C3D, Inception, Published, Raising, saved


SUBJECT = Subject("run", "video", "hash", "1-1")
SAID = (
    "protocol", "protocol_says", "seed", "frames", "stride", "real_samples", "generated_samples", "preprocessing", "features",
    "features_sha256", "subject", "generator_sha256", "data", "data_content_hash",
)  # fmt: skip


@pytest.fixture(scope="module")
def shards(tiny_run: RunFolder) -> ShardSet:
    return ShardSet.open(tiny_run.data)


def random_figures(rng: np.random.Generator, n: int, size: int = 96) -> dict[str, np.ndarray]:
    clips = {
        "motion": rng.random(n),
        "within": rng.random(n),
        "mean": rng.standard_normal((3, 4, 4)),
        "square": np.array(9.0 * n),
        "videos": np.array(1.0 * n),
    }
    return {"features": rng.standard_normal((n, size)).astype(np.float32), **clips}


def measured(
    question: Question, folder: RunFolder, shards: ShardSet, real: list[dict[str, np.ndarray]], fake: list[dict[str, np.ndarray]]
) -> dict[str, Any]:
    """The result from figures of each repeat, each kept as a single part."""
    sides = []
    for number, side in enumerate((real, fake)):
        repeats = [(Part(question.measure, "", "made up", seed=repeat, start=number), figures) for repeat, figures in enumerate(side)]
        samples = [Samples() for _ in repeats]
        for one, (part, figures) in zip(samples, repeats, strict=True):
            if figures:
                keep(folder.store, part.key, figures)
                one.add(part.key, recall(folder.store, part))
        sides.append(samples)
    wanted = comparisons(*sides)
    distances = joined(wanted, [compared(folder.store, comparison) for comparison in wanted])
    return measure(question, SUBJECT, folder, shards, *sides, distances)


def test_the_result_says_what_it_was_measured_with(tiny_run: RunFolder, shards: ShardSet) -> None:
    rng = np.random.default_rng(0)
    real, fake = ([random_figures(rng, 50) for _ in range(2)] for _ in range(2))
    question = Question("clips", "digan", 16, 50, seed=3)
    result = measured(question, tiny_run, shards, real, fake)
    pairs = [(torch.from_numpy(a["features"]), torch.from_numpy(b["features"])) for a, b in zip(real, fake, strict=True)]
    expected = [frechet_distance(Moments.of(a), Moments.of(b)) for a, b in pairs]
    assert [repeat["distance"] for repeat in result["repeats"]] == expected and result["distance"] == pytest.approx(sum(expected) / 2)
    assert "not FVD" in result["measure"] and result["error"] == pytest.approx(np.std(expected, ddof=1))
    assert result["error_says"] == "standard deviation over 10 repeats"
    one = measured(Question("clips", "all-clips", 16, 50), tiny_run, shards, real[:1], fake[:1])
    assert one["error"] == pytest.approx(frechet_error(*pairs[0])) and "20 draws" in one["error_says"]
    assert result["clips"]["motion_ratio"] == pytest.approx(fake[0]["motion"].mean() / real[0]["motion"].mean())
    assert all(result[key] is not None for key in SAID)
    assert json.loads(json.dumps(result)) == result
    for key in ("features_sha256", "data_content_hash", "generator_sha256", "subject"):
        path = result_path(question, {**result, key: "other"})
        assert path != result_path(question, result), "would replace the result for something else"


def test_pairs_by_a_network_have_a_distance_of_each_frame(tiny_run: RunFolder, shards: ShardSet, tmp_path: Path) -> None:
    """Reference: the distance of the one and of the other; the mean is the figure."""
    rng = np.random.default_rng(2)
    file = saved(Inception(), tmp_path / "inception.pt")
    real, fake = ({key: rng.standard_normal((40, 8)) + shift for key, shift in (("former", 0), ("latter", s))} for s in (0, 1))
    result = measured(Question("pairs", "all-clips", 2, 40, network=file), tiny_run, shards, [real], [fake])
    for key in ("former", "latter"):
        expected = frechet_distance(Moments.of(torch.from_numpy(real[key])), Moments.of(torch.from_numpy(fake[key])))
        assert result[key] == pytest.approx(expected)
    pairs = [(torch.from_numpy(real[key]), torch.from_numpy(fake[key])) for key in ("former", "latter")]
    assert [result["former_error"], result["latter_error"]] == pytest.approx([frechet_error(*pair) for pair in pairs])
    assert result["distance"] == pytest.approx((result["former"] + result["latter"]) / 2) and result["latter"] > result["former"] + 5
    assert file.uri in result["measure"] and result["features_sha256"] == file.sha256 and "by the network" in result["preprocessing"]


def test_classes_have_a_score(tiny_run: RunFolder, shards: ShardSet, tmp_path: Path) -> None:
    """Reference: sure and evenly spread classes score their number, and no network of clips is called FVD by its place alone."""
    file = saved(C3D(), tmp_path / "c3d.pt")
    sure = np.tile(np.eye(4, dtype=np.float32), (100, 1))
    question = Question("classes", "all-clips", 16, 400, network=file)
    result = measured(question, tiny_run, shards, [{}], [{"probabilities": sure}])
    assert result["score"] == pytest.approx(4, rel=0.05) and 0 < result["error"] < 0.1 and "distance" not in result
    clips = Question("clips", "all-clips", 16, 400, network=saved(Published(), tmp_path / "i3d.pt"))
    rng = np.random.default_rng(0)
    found = measured(clips, tiny_run, shards, [random_figures(rng, 9)], [random_figures(rng, 9)])
    assert found["measure"].endswith("(not the I3D of FVD: not FVD)")
    assert result["error_says"] == "standard error of the mean over 10 splits"


def test_a_distance_below_zero_by_rounding_counts_as_zero_and_is_said(tiny_run: RunFolder, shards: ShardSet) -> None:
    samples = Samples((("key", 5),), ("features",), random_figures(np.random.default_rng(0), 5))
    below, above = ({"features": Distance(value)} for value in (-1e-11, 0.5))
    result = measure(Question("clips", "digan", 16, 5), SUBJECT, tiny_run, shards, [samples] * 2, [samples] * 2, [below, above])
    assert [repeat["distance"] for repeat in result["repeats"]] == [0, 0.5] and result["below_zero_by_rounding"] == -1e-11


def test_the_best() -> None:
    near: dict[str, Any] = {"distance": 1.0}
    high: dict[str, Any] = {"score": 3.0}
    assert best([{"distance": 2.0}, near]) is near and best([{"score": 1.0}, high, {"score": 2.0}]) is high


def test_a_run_without_its_export_is_told(tiny_run: RunFolder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_run.uri, tmp_path / "run"))
    (folder / "export/latent.safetensors").unlink()
    assert "the run has not finished" in refused(verb.run, verb.Flags, "--run", str(folder), "--protocol", "training")


def test_mistakes_are_told_before_work_starts(tiny_run: RunFolder, tmp_path: Path) -> None:
    def told(*flags: str) -> str:
        return refused(verb.run, verb.Flags, "--run", tiny_run.uri, *flags)

    assert "needs 2,048 different clips of 4 frames at stride 2, so 7 frames of a video, and finds 144" in told("--frames", "4")
    assert "choose one of styleganv" in told("--protocol", "other")
    assert "of 5000 frames at stride 2, so 9999 frames" in told("--frames", "5000")
    assert "no commit 7 of stage video" in told("--protocol", "all-clips", "--frames", "4", "--commit", "7")
    assert "no commit 7 of stage pairs" in told("--protocol", "all-clips", "--measure", "pairs", "--commit", "7")
    assert "holds no run" in refused(verb.run, verb.Flags, "--run", f"{tiny_run.uri}-nowhere")
    file = saved(Published(), tmp_path / "i3d.pt")
    assert "has sha256" in told("--frames", "4", "--features", file.uri, "--features-sha256", "0" * 64)
    assert "belong together" in told("--features", file.uri)
    assert "--features is empty" in told("--features", "", "--features-sha256", "")
    named = "--features", file.uri, "--features-sha256", file.sha256
    assert "does not take uint8 [n, 3, h, w]" in told("--measure", "pairs", *named)
    assert "gives [2, 400] for 2 samples, expected finite [2, 101]" in told("--measure", "classes", *named)
    for nothing in (str(tmp_path), f"{tmp_path}/", ".", "..", "s3://bucket/", f"{file.uri}/x"):
        assert "there is no file" in told("--features", nothing, "--features-sha256", "0" * 64), nothing
    raising = saved(Raising(), tmp_path / "raising.pt")
    assert "does not take uint8" in told(
        "--protocol", "all-clips", "--frames", "4", "--features", raising.uri, "--features-sha256", raising.sha256
    )
