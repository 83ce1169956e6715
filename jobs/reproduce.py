"""A table of the paper: its rows trained and measured, beside the published figures."""

import itertools
import typing
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jobs import sweep as verb
from jobs._axes import Axes, split_axes
from jobs._cli import main
from jobs._plan import print_ingest
from mvgan.config import InputError
from mvgan.data.shards import ShardSet
from mvgan.distributed.resources import session
from mvgan.presets import preset
from mvgan.report import markup
from mvgan.report.tables import dataset_section
from mvgan.settings import differences, to_dict
from mvgan.storage.holder import held
from mvgan.storage.uri import open_store
from mvgan.tables import TABLES, UCF101
from mvgan.validation import validate


Name = Literal[
    "table1-ucf101", "table1-faceforensics", "table1-skytimelapse", "table2", "table3-faceforensics", "table3-skytimelapse", "table4",
    "table5", "table6-ucf101", "table6-faceforensics", "table6-skytimelapse", "table7", "random-codes", "mixed-k", "convergence",
]  # fmt: skip


@dataclass(frozen=True)
class Flags(verb.Flags):
    """Flags of this verb."""

    table: Annotated[Name | None, tyro.conf.Positional] = None
    """The table, or what the paper says beside its tables."""
    scale: Literal["full", "tiny"] = "full"
    """full: the paper's constants, for a cluster with GPUs; give the paper's videos. tiny: preset tiny, any videos, one machine."""


def run(flags: Flags, axes: Axes) -> None:
    """Train the rows that are not done yet, for each seed of the axes, and write the page, or with --dry-run say what would run."""
    assert flags.table is not None  # `with_preset` has seen to that
    if flags.table == "table7":
        if axes:
            raise InputError("table7 trains nothing, so no seed changes it; leave --seed away")
        _statistics(flags)
        return
    table, uri = TABLES[flags.table], flags.uri()
    given = differences(to_dict(preset(flags.preset)), to_dict(flags.settings)).keys()
    for path in dict.fromkeys(path for case in table.cases for path in case.settings):
        if path in given:
            raise InputError(f"{path} is what the rows of {flags.table} set; leave --{path.replace('_', '-')} away")
    grid = table.sweep(verb.measured(flags.settings), open_store(flags.source.shards_at(uri)).uri, axes)
    verb.carry_out(flags, grid, uri, verb.Page(flags.table, table, flags.scale == "tiny"))


def _statistics(flags: Flags) -> None:
    """Table VII, for which nothing is trained."""
    uri, settings = flags.uri(), validate(flags.settings)
    flags.source.refuse(flags.preset, uri, flags.dry_run)
    plan = flags.source.plan(uri, settings)
    if flags.dry_run:
        if plan is not None:
            print_ingest(plan)
        print(f"table7: nothing to train, to {uri}/table7.html")
        return
    with held(open_store(uri), "reproduce"):
        source = flags.source.render(uri, flags.preset, settings)
        with session(flags.resources):
            shards = ShardSet.open(source.shards(uri, settings, "reproduce"), verify=False)
        page = markup.document("mvgan table7", f"{shards.uri}: {shards.resolution} px.", [dataset_section(shards)])
        open_store(uri).write("table7.html", page.encode())
    print(f"{open_store(uri).uri}/table7.html")


def with_preset(argv: list[str]) -> list[str]:
    """The arguments, with the preset that table and scale stand for."""
    if "--help" in argv or "-h" in argv:
        return argv
    names = typing.get_args(Name)
    name = argv[0] if argv else None
    if name not in names:
        raise InputError(f"name a table of the paper first: {', '.join(names)}; see --help")
    if any(text.startswith("--preset") for text in argv):
        raise InputError("--preset follows from the table and --scale; leave it away, and give single settings as flags")
    pairs = [text.split("=", 1) for text in argv if text.startswith("--scale=")] + list(map(list, itertools.pairwise(argv)))
    scales = [value for flag, value in pairs if flag == "--scale"]
    if len(scales) > 1:
        raise InputError("--scale is given twice; give it once")
    tiny = scales == ["tiny"]
    return [*argv, "--preset", "tiny" if tiny else (TABLES[name].dataset if name in TABLES else UCF101).preset]


def cli() -> None:
    """Run the verb: several seeds are taken from the command line before the flags are."""
    axes: Axes = {}

    def read(argv: list[str]) -> list[str]:
        found, rest = split_axes(with_preset(argv))
        if others := [path for path in found if path != "seed"]:
            raise InputError(f"{others[0]} is given several values; a table takes several of --seed alone, so give one, or use jobs.sweep")
        axes.update(found)
        return rest

    main(
        lambda flags: run(flags, axes),
        Flags,
        "Train and measure the rows of a table of the paper, and set the published figures beside them. Tables on the same videos share "
        "a folder with `sweep`, and with it pair generators and trials. With several seeds (`--seed 0 1 2`) rows are means over them. "
        "What is done is skipped.",
        read,
    )


if __name__ == "__main__":
    cli()
