"""What is evaluated: exports and commits, and that a commit's figure is the one that training took."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mvgan.config import InputError
from mvgan.data.shards import ShardSet
from mvgan.evaluation.parts import figures_of, generated_parts, real_parts
from mvgan.evaluation.question import Measure, ask
from mvgan.evaluation.result import join, measure
from mvgan.evaluation.subject import subjects
from mvgan.storage.run import RunFolder, read_run


CPU = torch.device("cpu")


@pytest.fixture
def copied(tiny_run: RunFolder, tmp_path: Path) -> RunFolder:
    return read_run(shutil.copytree(tiny_run.uri, tmp_path / "run"))


def test_the_last_commit_is_what_was_exported(tiny_run: RunFolder) -> None:
    for stage in ("pairs", "video"):
        (exported,) = subjects(tiny_run, stage, None)
        commits = subjects(tiny_run, stage, "all")
        assert commits[-1].sha256 == exported.sha256 and len({commit.sha256 for commit in commits}) == len(commits)
        assert subjects(tiny_run, stage, commits[0].commit) == [commits[0]]


@pytest.mark.parametrize("what", ["pairs", "clips"])
def test_a_commit_is_measured_as_training_measured_it(tiny_run: RunFolder, what: Measure) -> None:
    """Reference: the figure that training has written into the commit."""
    shards, question = ShardSet.open(tiny_run.data), ask(tiny_run.run, what, "training", None, None, None, None)
    (real,) = real_parts(tiny_run, shards, question)
    theirs = join([figures_of(part, CPU) for part in real])
    measured = {commit.name: commit.meta for commit in tiny_run.commits(question.stage).records() if "frechet" in commit.meta}
    found = [subject for subject in subjects(tiny_run, question.stage, "all") if subject.commit in measured]
    assert len(found) >= 2
    for subject in found:
        (parts,) = generated_parts(subject, question)
        ours = join([figures_of(part, CPU) for part in parts])
        result = measure(question, subject, tiny_run, shards, [theirs], [ours])
        assert result["distance"] == pytest.approx(measured[str(subject.commit)]["frechet"], rel=1e-6)


def test_a_commit_is_other_networks(tiny_run: RunFolder) -> None:
    question = ask(tiny_run.run, "clips", "all-clips", 4, 2, None, None)
    first, *_, last = subjects(tiny_run, "video", "all")
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
    assert subjects(copied, "pairs", "all") == others
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
    with pytest.raises(InputError, match="lacks one of"):
        subjects(copied, "video", "all")
