"""The report of a run."""

from dataclasses import dataclass

import tyro

from jobs._cli import main
from mvgan.report import build_report
from mvgan.storage.run import read_run


@dataclass(frozen=True)
class Flags:
    """Flags of this verb."""

    run: str = tyro.MISSING
    """Run folder or s3:// prefix: what a training command printed."""


def run(flags: Flags) -> None:
    """Write the report and print where it is."""
    print(build_report(read_run(flags.run)))


if __name__ == "__main__":
    main(run, Flags, "Write report.html into a run's folder: quality gates, sample videos, pairs, motion codes, losses, data, settings.")
