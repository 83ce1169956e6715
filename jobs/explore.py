"""The motion explorer of a finished run."""

from dataclasses import dataclass

import torch
import tyro

from jobs._board import parse_numbers, told
from jobs._cli import main
from mvgan.config import InputError
from mvgan.sample import Generator
from mvgan.storage.uri import open_store


MAX_ALPHA = 10_000
"""Most steps along a code."""

MAX_STEPS = 101
"""Most places along a code."""


@dataclass(frozen=True)
class Flags:
    """Flags of this verb."""

    run: str = tyro.MISSING
    """Run folder or s3:// prefix: what a training command printed."""
    seeds: str = "0-3"
    """Contents: 0-3, or 1,5,9, or both kinds mixed. Each is shown with every code, and is a row of the table of videos. Fewer of them, or
    fewer --codes, leave room for larger frames."""
    motion_seeds: str | None = None
    """Seeds of the motions, a column each of the table of videos; without it those of --seeds."""
    frames: int = 64
    """Length of each video in frames."""
    truncation: float = 0.7
    """1 keeps all variety of content, lower values draw it towards the mean, where pictures are better."""
    codes: int | None = None
    """How many codes of each direction, from the first on; without it all."""
    alpha: float | None = None
    """How far sliders go along a code, both ways, in the longest steps that stage 3 takes along it in one frame (residual times scale);
    without it as many as its clips have frames."""
    steps: int | None = None
    """Places along each code, an odd number, as the middle one is the pair without an edit; without it 17, 13 or 9, as many as fit."""


def run(flags: Flags) -> None:
    """Write the explorer into the run's folder and print where it is."""
    _check(flags)
    seeds = parse_numbers(flags.seeds, "--seeds")
    motions = seeds if flags.motion_seeds is None else parse_numbers(flags.motion_seeds, "--motion-seeds")
    generator = Generator.load(flags.run, "cuda" if torch.cuda.is_available() else "cpu")
    from mvgan.report import explorer, sprites  # with matplotlib, seconds that a mistake need not wait for

    asked = sprites.Asked(tuple(seeds), tuple(motions), flags.frames, flags.truncation, flags.codes, flags.alpha, flags.steps)
    plan = sprites.plan(generator.run, asked)
    print(f"explore: frames of {plan.size} px, {len(plan.alphas)} places along each of {plan.num_codes} codes each way", flush=True)
    sheets = list(told(sprites.draw_sheets(generator, plan), plan.num_sheets, "codes", "explore"))
    videos = list(told(sprites.draw_videos(generator, plan), len(seeds) * len(motions), "videos", "explore"))
    movie = sprites.movie_of(videos, len(motions), generator.fps())
    store = open_store(flags.run)
    store.write(explorer.EXPLORER, explorer.explorer_html(generator, plan, sheets, movie, store.uri).encode())
    print(f"{store.uri}/{explorer.EXPLORER}")


def _check(flags: Flags) -> None:
    """Raise InputError for what the flags alone tell."""
    if flags.frames < 1:
        raise InputError(f"--frames is {flags.frames}; a video has at least 1 frame")
    if not 0 <= flags.truncation <= 2:
        raise InputError(f"--truncation is {flags.truncation}; give a number from 0 (the mean alone) to 1 (all variety)")
    if flags.alpha is not None and not 0 < flags.alpha <= MAX_ALPHA:
        raise InputError(f"--alpha is {flags.alpha}; give a number of steps above 0 and at most {MAX_ALPHA}, which are gone both ways")
    if flags.steps is not None and not (3 <= flags.steps <= MAX_STEPS and flags.steps % 2):
        raise InputError(f"--steps is {flags.steps}; give an odd number from 3 to {MAX_STEPS}, so that the pair without an edit is one")


if __name__ == "__main__":
    main(run, Flags, "Write explorer.html into a run's folder: a slider along each motion code, contents with motions in step.")
