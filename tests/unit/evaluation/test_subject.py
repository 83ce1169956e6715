"""What is evaluated: exports and commits, and that a commit's figure is the one that training took."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mvgan.config import InputError
from mvgan.data.shards import ShardSet
from mvgan.evaluation import parts as cut
from mvgan.evaluation.answer import answers
from mvgan.evaluation.parts import figures_of, generated_parts, real_parts
from mvgan.evaluation.question import Measure, ask
from mvgan.evaluation.subject import forget, subjects
from mvgan.metrics.features import ClipFeatures
from mvgan.sample import Generator
from mvgan.storage.run import RunFolder, read_run
from mvgan.storage.uri import open_store


CPU = torch.device("cpu")


def one_by_one(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], unit: str) -> Iterator[Any]:
    """All tasks of an evaluation, in this process."""
    return (function(*some, CPU) for some in arguments)


@pytest.fixture
def copied(tiny_run: RunFolder, tmp_path: Path) -> RunFolder:
    return read_run(shutil.copytree(tiny_run.uri, tmp_path / "run"))


def test_the_last_commit_is_what_was_exported(copied: RunFolder) -> None:
    for stage in ("pairs", "video"):
        (exported,) = subjects(copied, stage, None)
        commits = subjects(copied, stage, "all")
        assert commits[-1].sha256 == exported.sha256 and len({commit.sha256 for commit in commits}) == len(commits)
        assert [named.sha256 for named in subjects(copied, stage, commits[0].commit)] == [commits[0].sha256]


@pytest.mark.parametrize("what", ["pairs", "clips"])
def test_a_commit_is_measured_as_training_measured_it(copied: RunFolder, what: Measure) -> None:
    """Reference: the figure that training has written into the commit."""
    shards, question = ShardSet.open(copied.data), ask(copied.run, what, "training", None, None, None, None)
    real = real_parts(copied, shards, question)
    measured = {commit.name: commit.meta for commit in copied.commits(question.stage).records() if "frechet" in commit.meta}
    found = [subject for subject in subjects(copied, question.stage, "all") if subject.commit in measured]
    assert len(found) >= 2
    for subject, result in zip(found, answers(copied, shards, question, real, found, one_by_one), strict=True):
        assert result["distance"] == pytest.approx(measured[str(subject.commit)]["frechet"], rel=1e-6)


def test_a_commit_is_other_networks(copied: RunFolder) -> None:
    question = ask(copied.run, "clips", "all-clips", 4, 2, None, None)
    first, *_, last = subjects(copied, "video", "all")
    found = [figures_of(generated_parts(subject, question)[0][0], CPU)["features"] for subject in (first, last)]
    assert not np.array_equal(*found)


def test_damaged_and_missing_commits_are_told(copied: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = subjects(copied, "pairs", "all")
    with pytest.raises(InputError, match=f"has no commit x of stage pairs; give `all` or one of: {first.commit}"):
        subjects(copied, "pairs", "x")
    (data,) = Path(copied.uri, "pairs/data").glob(f"{first.commit}-*/state.pt")
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"commit {first.commit} of stage pairs is damaged"):
        subjects(copied, "pairs", first.commit)
    assert [subject.commit for subject in subjects(copied, "pairs", "all")] == [subject.commit for subject in others]
    assert f"commit {first.commit} is left out" in capsys.readouterr().out


def test_a_stage_that_has_not_ended_has_commits_only(copied: RunFolder) -> None:
    """Its export may be that of an earlier training."""
    for record in Path(copied.uri, "video/commits").glob("*.json"):
        if '"complete": true' in record.read_text():
            record.unlink()
    with pytest.raises(InputError, match="has not finished stage video"):
        subjects(copied, "video", None)
    Path(copied.uri, "export/latent.safetensors").unlink()
    (subject, *_) = subjects(copied, "video", "all")
    question = ask(copied.run, "clips", "all-clips", 4, 2, None, None)
    assert figures_of(generated_parts(subject, question)[0][0], CPU)["features"].shape == (2, 96)
    Path(copied.uri, "export/codes.safetensors").unlink()
    forget(copied, [subject])
    kept = len(list(Path(copied.uri).glob("evaluation/weights/*")))
    with pytest.raises(InputError, match=r"has no .*: the run has not finished"):
        subjects(copied, "video", "all")
    assert len(list(Path(copied.uri).glob("evaluation/weights/*"))) == kept


def test_settings_are_those_of_the_run(copied: RunFolder) -> None:
    """They may change until stage 3 begins, and the export tells of those before; and other settings are other networks.

    Reference: the exported networks, whose weights are those of the last commit, with the length of a step set by hand.
    """
    question = ask(copied.run, "clips", "all-clips", 6, 2, None, None)
    before = subjects(copied, "video", "all")[-1]
    record = json.loads(Path(copied.uri, "run.json").read_text())
    record["config"]["video"]["residual"] = 3 * copied.run.video.residual
    Path(copied.uri, "run.json").write_text(json.dumps(record))
    changed = read_run(copied.uri)
    after = subjects(changed, "video", "all")[-1]
    assert after.sha256 != before.sha256
    with pytest.raises(InputError, match="have changed since the evaluation began"):
        figures_of(generated_parts(before, question)[0][0], CPU)
    found = figures_of(generated_parts(after, question)[0][0], CPU)["features"]
    generator, features = Generator.load(copied.uri), ClipFeatures()
    stale = features(torch.from_numpy(generator.sample(range(2), 6))).numpy()
    generator.latent.residual *= 3
    np.testing.assert_allclose(found, features(torch.from_numpy(generator.sample(range(2), 6))).numpy(), atol=1e-5)
    assert np.abs(found - stale).max() > 1e-3


def test_networks_that_change_meanwhile_are_refused(copied: RunFolder) -> None:
    (subject,) = subjects(copied, "pairs", None)
    path = Path(copied.uri, "export/generator.safetensors")
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    (parts,) = generated_parts(subject, ask(copied.run, "pairs", "all-clips", None, 2, None, None))
    with pytest.raises(InputError, match="have changed since the evaluation began"):
        figures_of(parts[0], CPU)


def test_a_commit_may_vanish_while_it_is_evaluated(copied: RunFolder) -> None:
    """Training goes on beside, and keeps its newest commits only."""
    question = ask(copied.run, "pairs", "all-clips", None, 2, None, None)
    found = subjects(copied, "pairs", "all")
    parts = generated_parts(found[0], question)[0]
    expected = figures_of(parts[0], CPU)["features"]
    shutil.rmtree(Path(copied.uri, "pairs"))
    cut._pairs.cache_clear()  # as in the process of another task
    np.testing.assert_array_equal(figures_of(parts[0], CPU)["features"], expected)
    again = subjects(copied, "video", "all")
    forget(copied, found)
    figures_of(generated_parts(again[0], ask(copied.run, "clips", "all-clips", 4, 2, None, None))[0][0], CPU)
    forget(copied, again)
    assert not list(Path(copied.uri).glob("evaluation/weights/*"))


def test_a_run_on_s3(copied: RunFolder, s3: str) -> None:
    """Reference: the same run on disk, bit by bit."""
    there = open_store(f"{s3}/run")
    for path in copied.store.list():
        there.write(path, copied.store.read(path))
    folder = read_run(there.uri)
    for stage, what in (("pairs", "pairs"), ("video", "clips")):
        question = ask(folder.run, what, "all-clips", None if what == "pairs" else 4, 3, None, None)  # type: ignore[arg-type]
        both = [subjects(run, stage, "all") for run in (copied, folder)]
        assert [subject.sha256 for subject in both[0]] == [subject.sha256 for subject in both[1]]
        ours, theirs = ([figures_of(generated_parts(some[0], question)[0][0], CPU)["features"]] for some in both)
        np.testing.assert_array_equal(ours, theirs)
        forget(folder, both[1])
