"""What is in a shard set, printed and drawn."""

import os
from dataclasses import dataclass

import tyro

from jobs._cli import main
from mvgan.config import InputError, Intervals
from mvgan.data.shards import ShardSet
from mvgan.data.survey import lines, survey
from mvgan.storage.uri import open_store


SUFFIXES = (".html", ".png")


@dataclass(frozen=True)
class Flags:
    """Flags of this verb."""

    data: str = tyro.MISSING
    """Shard set: the folder or s3:// prefix that ingest wrote."""
    interval: Intervals = (1, 2, 4, 8, 16)
    """k: intervals whose pairs are counted and shown; a comma separates them (1,4,16)."""
    out: str | None = None
    """File to draw to, ending in .html or .png (one that exists is replaced), local or on S3; without it only text is printed."""


def run(flags: Flags) -> None:
    """Print what is in the shard set, and draw it where asked to."""
    suffix = os.path.splitext(flags.out or "")[1].lower()
    if flags.out is not None and suffix not in SUFFIXES:
        raise InputError(f"cannot draw to {flags.out!r}; give --out a name that ends in .html or .png")
    shards = ShardSet.open(flags.data, verify=False)
    found = survey(shards, flags.interval)
    print("\n".join(lines(found)))
    if flags.out is None:
        return
    from mvgan.report.dataset import dataset_html, dataset_png  # with its libraries, some seconds that text does not need

    drawn = dataset_html(shards, found).encode() if suffix == ".html" else dataset_png(shards, found)
    folder, _, name = flags.out.rpartition("/")
    open_store(folder or ("/" if "/" in flags.out else ".")).write(name, drawn)
    print(f"drawn: {flags.out}")


if __name__ == "__main__":
    main(run, Flags, "Print and draw what is in a shard set: lengths, rates, sizes, pairs at each interval, damaged and rejected sources.")
