"""What a stage is measured against."""

import dataclasses

import pytest

from mvgan.data.shards import ShardSet
from mvgan.data.windows import clip_windows, pair_windows
from mvgan.storage.run import RunFolder
from mvgan.train.measure import drawn_items


@pytest.mark.parametrize("stage", ["pairs", "video"])
def test_runs_of_other_seeds_are_measured_on_the_same_real_samples(tiny_run: RunFolder, stage: str) -> None:
    """While the seed does choose what they are trained on, and so what is drawn from windows in general."""
    shards = ShardSet.open(tiny_run.data)
    runs = [dataclasses.replace(tiny_run.run, seed=seed) for seed in (0, 1, 7)]
    first, *others = [drawn_items(shards, run, stage, 16) for run in runs]
    assert len(first) == 16 and others == [first, first]
    windows = clip_windows if stage == "video" else pair_windows
    assert windows(shards, runs[0])[0] != windows(shards, runs[1])[0]
