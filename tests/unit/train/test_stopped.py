"""Training that is asked to end: the commit that it leaves."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from mvgan.train.committer import MissedCommits, Stopped
from mvgan.train.stage import fit
from mvgan.train.state import Progress
from tests.unit.train import test_committer as committer
from tests.unit.train.test_committer import PLAN, FaultyStore, Training, refuse


store = committer.store


def stop_after(images: int) -> Callable[[], str]:
    """Asks to stop at the step that ends there, and from then on."""
    asked: list[int] = []

    def stop() -> str:
        asked.append(1)
        return "the power goes" if len(asked) * PLAN.batch >= images else ""

    return stop


@pytest.mark.parametrize("images", [4, 8, 20])
def test_training_that_is_asked_to_stop_commits_where_it_is(images: int, store: FaultyStore) -> None:
    """Due (8) or not; a storage that refuses once is asked again."""
    refuse(store, images)
    training = Training(store, stop=stop_after(images))
    with pytest.raises(Stopped, match=rf"^pairs: the power goes; committed at {images} pairs, and the same command goes on from there$"):
        training.run()
    newest = training.commits.newest()
    assert newest is not None and newest.images == images and not newest.meta["complete"]
    assert training.steps_at(images) == {images // PLAN.batch}


def test_a_stop_at_the_end_is_the_end(store: FaultyStore) -> None:
    training = Training(store, stop=stop_after(24))
    assert training.run().images == 24
    newest = training.commits.newest()
    assert newest is not None and newest.meta["complete"]


def test_a_stop_waits_for_a_step_that_was_taken(store: FaultyStore) -> None:
    """One that was left out may have ruined the weights before it."""
    training = Training(store, stop=stop_after(4))
    flags = iter([1.0, 1.0, 0.0])

    def batches() -> Iterator[Tensor]:
        for flag in flags:
            yield torch.tensor(flag)

    with pytest.raises(Stopped, match="committed at 12 pairs"):
        fit(training.stage, batches(), Progress(), training.plan, [training.committer])
    training.committer.close()
    assert [commit.images for commit in training.commits.records()] == [12]


def test_a_storage_that_refuses_the_commit_of_a_stop_is_told(store: FaultyStore) -> None:
    refuse(store, 12, 12, 12)
    with pytest.raises(MissedCommits, match=r"could not be written in 3 tries: .*; the same command goes on from the commit at 8 "):
        Training(store, stop=stop_after(12)).run()
