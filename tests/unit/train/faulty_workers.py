"""One of two workers whose numbers or storage fail: `python faulty_workers.py RANK FOLDER numbers|storage`.

Run as a script for each gloo worker, and imported by the test.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mvgan.storage.commit import Commits
from mvgan.storage.uri import LocalStore
from mvgan.train.committer import Committer
from mvgan.train.guard import NonFinite
from mvgan.train.outbox import Outbox
from mvgan.train.pairs import PairStage
from mvgan.train.ranks import Ranks
from mvgan.train.stage import Plan, fit
from mvgan.train.state import Progress
from tests.unit.train.leave import leave
from tests.unit.train.two_workers import batch_of, build


STEPS, FAULT, WORLD = 4, 2, 2
CASES = [("pairs", "G"), ("pairs", "path length"), ("pairs", "D"), ("pairs", "R1"), ("video", "d_v"), ("video", "latent")]
"""Stage and phase; all phases are due at the faulty step."""

FAULTS = ("gradient", "loss")
"""What is no number on the second worker. A gradient is averaged over both; a loss is its own, and the gradient may be as it should."""


def around(stage: Any, name: str, call: Callable[[Callable[..., Any], tuple[Any, ...]], Any]) -> None:
    """Put `call` around the function `name` of `stage`."""
    original = getattr(stage, name)
    setattr(stage, name, lambda *args: call(original, args))


def place_of(stage: Any) -> list[int]:
    """One number, which follows the images before the step that `stage` is at."""
    images = [0]

    def step(original: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        images[0] = args[1].images
        return original(*args)

    around(stage, "step", step)
    return images


def faulty(stage: Any, phase: str, rank: int, at: Callable[[int], bool], what: str = "gradient") -> None:
    """On the second worker one weight's gradient is made NaN by a hook, or the loss infinite, in `phase` at these images."""

    images = place_of(stage)

    def descend(original: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if rank != 1 or args[0] != phase or not at(images[0]):
            return original(*args)
        if what == "loss":
            return original(*args[:2], (loss + torch.full_like(loss, float("inf")) for loss in args[2]))
        parameter = next(p for p in args[1].param_groups[0]["params"] if p.requires_grad)
        hook = parameter.register_hook(lambda grad: grad * float("nan"))
        try:
            return original(*args)
        finally:
            hook.remove()

    around(stage.guard, "descend", descend)


def omitting(stage: Any, phase: str, at: Callable[[int], bool]) -> None:
    """The reference, on every worker: all is finite, but the optimizer takes no step, and what goes with it is put back."""

    images = place_of(stage)

    def descend(original: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        optimizer = args[1]
        if args[0] == phase and at(images[0]):
            optimizer.step = lambda: None
        try:
            return original(*args)
        finally:
            vars(optimizer).pop("step", None)

    around(stage.guard, "descend", descend)
    if isinstance(stage, PairStage):

        def generator(original: Callable[..., Any], args: tuple[Any, ...]) -> Any:
            kept = stage.generator.mapping.w_avg.clone()
            stats = original(*args)
            if phase == "G" and at(args[0].images):
                stage.generator.mapping.w_avg.copy_(kept)
            return stats

        def path_length(original: Callable[..., Any], args: tuple[Any, ...]) -> Any:
            kept = stage.pl_mean
            stats = original(*args)
            if phase == "path length" and at(args[0].images):
                stage.pl_mean = kept
            return stats

        around(stage, "_step_generator", generator)
        around(stage, "_step_path_length", path_length)


def train(stage: Any, name: str, ranks: Ranks) -> list[float]:
    """Skipped steps of each step."""
    skipped = []
    for step in range(STEPS):
        progress = Progress(step * ranks.batch)
        skipped.append(stage.step(batch_of(name, ranks, progress.images), progress)["skipped_steps"].item())
        stage.look(progress.images + ranks.batch)
    return skipped


def numbers(rank: int, folder: Path) -> None:
    """What becomes of a fault at one step, of the same run with that step omitted, and of a fault that stays."""
    ranks = Ranks(2, 2, rank, WORLD)
    for name, phase in CASES:
        for kind in (*FAULTS, "omitting"):
            stage = build(name, ranks)
            once = (FAULT * ranks.batch).__eq__
            if kind == "omitting":
                omitting(stage, phase, once)
            else:
                faulty(stage, phase, rank, once, kind)
            skipped = train(stage, name, ranks)
            torch.save({"state": stage.state_dict(), "skipped": skipped}, folder / f"{name} {phase} {kind} {rank}.pt")
    stage = build("pairs", ranks)
    stage.guard.max_skipped = 2
    faulty(stage, "D", rank, lambda images: images >= ranks.batch)
    try:
        train(stage, "pairs", ranks)
    except NonFinite as error:
        (folder / f"raised {rank}").write_text(str(error))


class FullStore(LocalStore):
    """A folder that takes no data of commits after the first."""

    def write(self, path: str, data: bytes) -> None:
        if path.startswith("data/") and not path.startswith("data/000000000004"):
            raise OSError(28, "No space left on device")
        super().write(path, data)

    def at(self, sub: str) -> "FullStore":
        return FullStore(self._file(sub))


def storage(rank: int, folder: Path) -> None:
    """Train for ever; the first worker commits each step."""
    ranks = Ranks(2, 2, rank, WORLD)
    plan = Plan(total=10**6, batch=ranks.batch, tick=10**6, commit=ranks.batch)
    hooks = []
    if rank == 0:
        store = FullStore(folder / "run")
        commits = Commits(store, "pairs")
        hooks.append(Committer("pairs", commits, commits.claim({}), plan, [], Outbox(store, print), print, 3, None, 10))

    def batches() -> Any:
        images = 0
        while True:
            yield batch_of("pairs", ranks, images)
            images += ranks.batch

    fit(build("pairs", ranks), batches(), Progress(), plan, hooks)


def main(rank: int, folder: Path, what: str) -> None:
    """Train as one of two workers."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous {what}", rank=rank, world_size=WORLD)
    {"numbers": numbers, "storage": storage}[what](rank, folder)
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
