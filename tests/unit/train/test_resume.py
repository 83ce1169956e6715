"""Going on from a commit changes no bit, and each thing that a commit holds, or that follows from its images, is needed for that."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from mvgan.data.shards import ShardSet
from mvgan.storage.run import RunFolder, open_run
from mvgan.train.committer import Stopped
from mvgan.train.export import export_weights
from mvgan.train.pairs import PairStage
from mvgan.train.session import Batches, Worker, local_batches, train_worker
from mvgan.train.state import Progress, from_bytes
from mvgan.train.video import VideoStage
from tests.unit.train import test_session as session
from tests.unit.train.test_pairs import equal


# Commits every 4 steps of 8: the phases that are due at every 3rd and 2nd step, and windows of 12, are at other places
# then. The average forgets so slowly that the end still shows what it was at the commit.
PAIR_SETTINGS = dataclasses.replace(
    session.RUN.pairs, evaluations=0, ema_kimg=0.1, ema_rampup=1.0, augment="ada", ada_interval=1, ada_kimg=0.05, ada_target=0.01
)  # fmt: skip
RUN = dataclasses.replace(session.RUN, deterministic=True, pairs=PAIR_SETTINGS)
STEPS, KILLED_AT = 4, 32
NETWORKS = ("generator", "discriminator", "ema", "latent", "d_v", "d_r")
QUIET = Worker(say=lambda line: None)
data = session.data


@pytest.fixture(autouse=True)
def _any_kernels_afterwards() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def train(folder: RunFolder, name: str, batches: Batches) -> None:
    train_worker(folder, name, folder.commits(name).claim({}), batches, QUIET)


def weights(folder: RunFolder, name: str) -> dict[str, Any]:
    """The networks in the last commit, without optimizers."""
    commit = folder.require(name)
    state = from_bytes(folder.commits(name).read(commit, "state.pt"))
    return {key: part.get("net", part) for key, part in state.items() if key in NETWORKS}


@pytest.fixture(scope="module")
def undisturbed(data: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = open_run(str(tmp_path_factory.mktemp("run") / "undisturbed"), RUN, data.uri)
    train(folder, "pairs", local_batches(data, RUN, "pairs"))
    export_weights(folder, "pairs")
    codes = torch.linalg.qr(torch.randn(8, 6, generator=torch.Generator().manual_seed(0))).Q.t()
    folder.store.write("export/codes.safetensors", save({"backward": codes[:3].contiguous(), "forward": codes[3:].contiguous()}))
    weights = hashlib.sha256(folder.store.read("export/generator.safetensors")).hexdigest()
    folder.store.write("export/codes.json", json.dumps({"generator_sha256": weights}).encode())
    train(folder, "video", local_batches(data, RUN, "video"))
    return folder


@pytest.fixture(scope="module")
def killed(undisturbed: RunFolder, data: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of which each stage was killed at its first commit; stage 3 has the same generator as the undisturbed one."""
    folder = open_run(str(tmp_path_factory.mktemp("run") / "killed"), RUN, data.uri)
    for path in undisturbed.store.list("export/"):
        folder.store.write(path, undisturbed.store.read(path))
    for name in ("pairs", "video"):
        with pytest.raises(session.Killed):
            train(folder, name, session.killed_after(local_batches(data, RUN, name), STEPS))
        commit = folder.commits(name).newest()
        assert commit is not None and commit.images == KILLED_AT
    return folder


def copied(killed: RunFolder, where: Path) -> RunFolder:
    folder = open_run(str(where / "resumed"), RUN, killed.data)
    for path in killed.store.list():
        folder.store.write(path, killed.store.read(path))
    return folder


def resumed(killed: RunFolder, where: Path, name: str, batches: Batches) -> dict[str, Any]:
    """The weights that a copy of the killed run ends with."""
    folder = copied(killed, where)
    train(folder, name, batches)
    return weights(folder, name)


@pytest.mark.parametrize("name", ["pairs", "video"])
def test_a_run_killed_at_a_commit_ends_with_the_same_bits(
    name: str, undisturbed: RunFolder, killed: RunFolder, data: ShardSet, tmp_path: Path
) -> None:
    torch.manual_seed(123)  # nothing may come from torch's own generator
    assert equal(resumed(killed, tmp_path, name, local_batches(data, RUN, name)), weights(undisturbed, name))


@pytest.mark.parametrize("name", ["pairs", "video"])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_stopped_between_commits_ends_with_the_same_bits(
    steps: int, name: str, undisturbed: RunFolder, killed: RunFolder, data: ShardSet, tmp_path: Path
) -> None:
    """Stopped so many steps after the commit at which it was killed, at a step where none was due, and started again."""
    folder, asked, batches = copied(killed, tmp_path), [""] * (steps - 1) + ["stopped"], local_batches(data, RUN, name)
    with pytest.raises(Stopped):
        train_worker(folder, name, folder.commits(name).claim({}), batches, dataclasses.replace(QUIET, stop=lambda: asked.pop(0)))
    commit = folder.commits(name).newest()
    assert commit is not None and commit.images % KILLED_AT and not commit.meta["complete"]
    train(folder, name, batches)
    assert equal(weights(folder, name), weights(undisturbed, name))


Change = Callable[[pytest.MonkeyPatch, type], None]


def without(part: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]) -> Change:
    """Load the state with `part` of it changed, given it and that of a fresh stage."""

    def change(patch: pytest.MonkeyPatch, stage: type) -> None:
        original = stage.load_state_dict
        patch.setattr(stage, "load_state_dict", lambda self, state: original(self, state | part(state, self.state_dict())))

    return change


def fresh(*names: str) -> Change:
    """Forget these parts of the state."""
    return without(lambda _, new: {name: new[name] for name in names})


def back(progress: Progress, by: int = KILLED_AT) -> Progress:
    """The place of a run that begins to count again."""
    return dataclasses.replace(progress, images=progress.images - by)


def progress_lost(patch: pytest.MonkeyPatch, stage: type) -> None:
    """The step takes the run for a new one: its lazy phases and ramps, though random numbers are those of the right place."""
    step, draws = stage.step, stage.draws
    patch.setattr(stage, "step", lambda self, batch, progress: step(self, batch, back(progress)))
    patch.setattr(stage, "draws", lambda self, purpose, progress, *group: draws(self, purpose, back(progress, -KILLED_AT), *group))


def sample_index_lost(patch: pytest.MonkeyPatch, stage: type) -> None:
    """Random numbers are drawn as at the start."""
    name = "draws" if stage is PairStage else "_draws"
    draws = getattr(stage, name)
    patch.setattr(stage, name, lambda self, purpose, progress, *group: draws(self, purpose, back(progress), *group))


def window_position_lost(patch: pytest.MonkeyPatch, stage: type) -> None:
    """The data begins anew: `test_leaving_out` gives the batches from the start."""


PAIRS: dict[str, Change] = {
    "optimizer": fresh("g_optimizer", "d_optimizer"),
    "EMA": without(lambda state, _: {"ema": state["generator"]}),
    "ADA": fresh("augment"),
    "path-length mean": fresh("pl_mean"),
    "progress": progress_lost,
    "sample index": sample_index_lost,
    "window position": window_position_lost,
}
VIDEO: dict[str, Change] = {
    "optimizer": without(
        lambda state, new: {name: {"net": part["net"], "optimizer": new[name]["optimizer"]} for name, part in state.items()}
    ),
    "sample index": sample_index_lost,
    "window position": window_position_lost,
}
CASES = [("pairs", PairStage, control) for control in PAIRS] + [("video", VideoStage, control) for control in VIDEO]


def test_every_part_of_the_state_has_a_control(undisturbed: RunFolder) -> None:
    """But the networks that train, without which nothing would be resumed."""
    commit = undisturbed.require("pairs")
    parts = set(from_bytes(undisturbed.commits("pairs").read(commit, "state.pt"))) - {"generator", "discriminator"}
    assert parts == {"g_optimizer", "d_optimizer", "ema", "augment", "pl_mean"}


def test_the_controls_have_something_to_lose(killed: RunFolder) -> None:
    """Where the run was killed, ADA has moved and path lengths have a mean."""
    commit = killed.commits("pairs").newest()
    assert commit is not None
    state = from_bytes(killed.commits("pairs").read(commit, "state.pt"))
    assert state["augment"]["p"] > 0 and state["pl_mean"] > 0


@pytest.mark.parametrize(("name", "stage", "control"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_leaving_out(
    name: str, stage: type, control: str, undisturbed: RunFolder, killed: RunFolder, data: ShardSet, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Negative controls of the test above: the weights diverge when one thing is left out on resuming."""
    (PAIRS if name == "pairs" else VIDEO)[control](monkeypatch, stage)
    batches = local_batches(data, RUN, name)
    if control == "window position":
        found = resumed(killed, tmp_path, name, lambda images, ranks: batches(0, ranks))
    else:
        found = resumed(killed, tmp_path, name, batches)
    wanted = weights(undisturbed, name)
    assert not equal(found, wanted)
    moved = {key for key in wanted if not equal(found[key], wanted[key])}
    assert moved == ({"ema"} if control == "EMA" else set(wanted)), "some network never felt it"
