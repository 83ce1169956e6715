"""A table of the paper: its rows trained and measured, beside the published figures."""

import itertools
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jobs import sweep as verb
from jobs._cli import main
from mvgan.config import InputError
from mvgan.storage.uri import open_store
from mvgan.sweep import Sweep, with_values
from mvgan.tables import TABLES


Name = Literal[
    "table2", "table3-faceforensics", "table3-skytimelapse", "table4", "table5", "random-codes", "mixed-k", "convergence"
]  # fmt: skip


@dataclass(frozen=True)
class Flags(verb.Flags):
    """Flags of this verb."""

    table: Annotated[Name | None, tyro.conf.Positional] = None
    """The table, or what the paper says beside its tables."""
    scale: Literal["full", "tiny"] = "full"
    """full: the paper's constants, for a cluster with GPUs; give the paper's videos. tiny: preset tiny, any videos, one machine."""


def run(flags: Flags) -> None:
    """Train the rows that are not done yet and write the page, or with --dry-run say what would run."""
    assert flags.table is not None  # `with_preset` has seen to that
    table, uri = TABLES[flags.table], flags.uri()
    base = with_values(flags.settings, dict(table.shared))
    grid = Sweep(verb.measured(base), {}, open_store(flags.source.shards_at(uri)).uri, table.cases)
    verb.carry_out(flags, grid, uri, verb.Page(flags.table, table, flags.scale == "tiny"))


def with_preset(argv: list[str]) -> list[str]:
    """The arguments, with the preset that table and scale stand for."""
    if "--help" in argv or "-h" in argv:
        return argv
    name = next((text for text in argv if text in TABLES), None)
    if name is None:
        raise InputError(f"name a table of the paper: {', '.join(TABLES)}; see --help")
    if any(text.startswith("--preset") for text in argv):
        raise InputError("--preset follows from the table and --scale; leave it away, and give single settings as flags")
    tiny = "--scale=tiny" in argv or ("--scale", "tiny") in itertools.pairwise(argv)
    return ["--preset", "tiny" if tiny else TABLES[name].dataset.preset, *argv]


if __name__ == "__main__":
    main(
        run,
        Flags,
        "Train and measure the rows of a table of the paper, and set the published figures beside them. Tables on the same videos share "
        "a folder with `sweep`, and with it pair generators and trials. What is done is skipped.",
        with_preset,
    )
