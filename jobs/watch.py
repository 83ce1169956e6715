"""How far a run is, looked at from anywhere."""

import math
import time
from dataclasses import dataclass

import tyro

from jobs._cli import main
from mvgan.config import Ended, InputError
from mvgan.watch import lines, look, state


@dataclass(frozen=True)
class Flags:
    """Flags of this verb."""

    run: str = tyro.MISSING
    """Folder of a run, or its s3:// prefix; of a sweep one of its trials/<key> or pairs/<key>."""
    every: float | None = None
    """Look again every so many seconds until the run is complete (exit status 0) or has stopped (1); without it, look once."""
    dollars_per_hour: float | None = None
    """What all machines of the run cost together in an hour; with it the cost of the training so far is told."""


def run(flags: Flags) -> None:
    """Print how far the run is, once or until it has ended."""
    if flags.every is not None and not 0 < flags.every < math.inf:
        raise InputError(f"--every is {flags.every}; give seconds above 0, or leave it away to look once")
    if flags.dollars_per_hour is not None and not 0 <= flags.dollars_per_hour < math.inf:
        raise InputError(f"--dollars-per-hour is {flags.dollars_per_hour}; give dollars from 0 on")
    silent = ""
    while True:
        found = look(flags.run)
        print("\n".join(lines(found, flags.dollars_per_hour)), flush=True)
        if flags.every is None or found.complete:
            return
        holder, pause_s = found.holder, flags.every
        if found.at_work:
            silent = ""
        elif holder is None or holder.left or holder.who == silent:
            raise Ended(f"{found.uri}: {state(found)}; the command that trains it goes on with it, and its logs/ have what was said")
        else:  # its storage may have been out of reach for a moment
            silent, pause_s = holder.who, max(flags.every, holder.dead_s)
        time.sleep(pause_s)
        print(flush=True)


if __name__ == "__main__":
    main(
        run,
        Flags,
        "Tell how far a run is, from its folder alone: stage, progress, rate and ETA, last commit, what steps wait for, alarms (missed "
        "commits, steps left out, signs that stage 1 goes wrong), and with a price what training has cost. Asks no cluster and writes "
        "nothing. What was trained since the newest record of metrics is in no file, and so in no figure.",
    )
