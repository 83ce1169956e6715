"""Stage 2: find the motion codes of a trained pair generator."""

from dataclasses import dataclass

import tyro

from jobs._cli import Settings, main
from jobs._plan import print_codes
from mvgan.distributed.codes import find_codes
from mvgan.distributed.resources import session
from mvgan.storage.run import check_run, drive, read_run
from mvgan.validation import check_pairs


@dataclass(frozen=True)
class Flags(Settings):
    """Flags of this verb."""

    run: str = tyro.MISSING
    """Folder of a run whose stage `pairs` has finished; its settings are the defaults here."""


def run(flags: Flags) -> None:
    """Find the codes, or with --dry-run say what would be computed."""
    before = read_run(flags.run)
    before.require("pairs")
    check_pairs(before.run)
    if flags.dry_run:
        check_run(flags.run, flags.settings, before.data)
        print_codes(flags.settings)
        return
    with drive(flags.run, flags.settings, before.data, "codes") as folder, session(flags.resources):
        find_codes(folder, flags.resources)
    print(f"{folder.uri}/export/codes.safetensors")


if __name__ == "__main__":
    main(run, Flags, "Stage 2: motion codes by low-rank factorization of the pair generator's Jacobian, one task per latent.")
