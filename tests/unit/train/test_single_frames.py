"""Stage 1 on single frames: StyleGAN2, the baseline of the paper's Tables I and VI, by the same trainer."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import codes, evaluate, generate, pairs, pipeline, report, video
from mvgan.data.shards import ShardSet
from mvgan.data.windows import decode_window, pair_windows
from mvgan.evaluation.answer import answers
from mvgan.evaluation.parts import real_parts
from mvgan.evaluation.question import ask
from mvgan.evaluation.subject import subjects
from mvgan.media import decode_png
from mvgan.storage.run import RunFolder, open_run
from mvgan.train.export import read_tensors
from mvgan.train.hooks import read_metrics
from tests.unit.conftest import make_shards, tiny_config, train_stage
from tests.unit.evaluation.test_subject import one_by_one
from tests.unit.jobs.test_cli import outcome, refused


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Stage 1 on single frames, to its end."""
    torch.set_num_threads(1)
    run = tiny_config()
    changed = dataclasses.replace(run.pairs, pl_weight=2.0, augment="ada")  # every phase has its share of frames
    run = dataclasses.replace(run, network=dataclasses.replace(run.network, frames=1), pairs=changed)
    root = tmp_path_factory.mktemp("single")
    shards = make_shards(root, run)
    folder = open_run(str(root / "run"), run, shards.uri)
    train_stage(folder, shards, "pairs")
    return folder


def test_networks_have_three_channels(single: RunFolder) -> None:
    weights = read_tensors(single.store, "generator.safetensors")
    assert {tensor.shape[0] for name, tensor in weights.items() if re.search(r"to_frames\.(weight|bias)", name)} == {3}


def test_every_frame_is_drawn_alike(single: RunFolder) -> None:
    """Against counting: the frames of a video as often as one another, none reversed for there is nothing to reverse."""
    windows = pair_windows(ShardSet.open(single.data), single.run)
    drawn = [item for index in range(1500) for item in windows[index]]
    assert {len(item.frames) for item in drawn} == {1}
    counts = np.bincount([item.frames[0] for item in drawn], minlength=24)
    expected = len(drawn) / 24
    assert len(counts) == 24 and np.square((counts - expected) / expected**0.5).sum() < 60  # chi square of 23, far beyond 99.9 %


def test_pictures_and_measure(single: RunFolder) -> None:
    """The distance to real frames, by training and by evaluate alike; there are no two sides to flip between."""
    assert decode_png(single.store.read("samples/pairs-000000064.png")).shape == (3, 4 * 64, 8 * 64)
    assert not [path for path in single.store.list("samples/") if path.endswith(".mp4")]
    shards, question = ShardSet.open(single.data), ask(single.run, "pairs", "training", None, None, None, None)
    found = [subject for subject in subjects(single, "pairs", "all") if subject.commit]
    measured = {commit.name: commit.meta["frechet"] for commit in single.commits("pairs").records() if "frechet" in commit.meta}
    results = list(answers(single, shards, question, real_parts(single, shards, question), found, one_by_one))
    assert {result["subject"]: result["distance"] for result in results} == {
        f"commit {name} of pairs": pytest.approx(value, rel=1e-6) for name, value in measured.items()
    }
    clips = real_parts(single, shards, ask(single.run, "pairs", "all-clips", None, 8, None, None))
    assert sum(len(part.items) for part in clips[0]) == shards.lengths.sum()
    assert decode_window(shards, clips[0][0].items).shape[1:] == (1, 3, 16, 16)


def test_a_frame_by_itself_is_the_whole_sample(single: RunFolder) -> None:
    records = [record for record in read_metrics(single.store, "pairs") if "frechet" in record]
    assert len(records) == 3
    for record in records:
        assert record["frechet_frames"] == record["frechet"] and record["frechet_frames_error"] == record["frechet_error"]


def test_later_stages_are_refused_before_work_starts(single: RunFolder, tmp_path: Path) -> None:
    for verb, flags in (
        (codes, ()),
        (video, ()),
        (report, ()),
        (generate, ("--out", str(tmp_path / "x.mp4"))),
        (evaluate, ("--frames", "4")),
    ):
        told = refused(verb.run, verb.Flags, "--run", single.uri, *flags)
        assert "network.frames is 1: motion codes, videos and their report need pairs; train single frames by `python -m" in told, verb
    place = "--storage", str(tmp_path), "--name", "x", "--data", single.data
    assert "motion codes, videos and their report need pairs" in refused(
        pipeline.run, pipeline.Flags, *place, "--preset", "smoke", "--network.frames", "1"
    )


def test_the_plan_says_so(single: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--storage", str(tmp_path), "--name", "x", "--data", single.data, "--preset", "smoke", "--network.frames", "1", "--dry-run"
    status, out, _ = outcome(pairs.run, pairs.Flags, *flags)
    assert status == 0 and "single frames of 16 px" in out and "from videos of 1 frames or more" in out
