"""A verb as a job on a cluster: submitted, followed to its end, with its exit status."""

import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs._cli import main
from jobs._secrets import INSTEAD, refuse_in_command, refuse_in_files, refuse_in_variables
from jobs._submission import STOP_WAIT, Head
from mvgan.config import InputError


USAGE = "give a verb and its flags after --, such as `-- pipeline --preset tiny --videos s3://bucket/videos --storage s3://bucket/runs`"
TOLD = f"and Ray would keep it, in its API and logs; leave it away: {INSTEAD}"


@dataclass(frozen=True)
class Flags:
    """Flags of this verb; those of the verb that is submitted follow it, after --."""

    address: str = "http://127.0.0.1:8265"
    """The head's address: that of the tunnel to it. The token is found as Ray finds it (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH)."""
    submission_id: str | None = None
    """Name of the job; Ray makes one up without it. Each is taken once."""
    wait: bool = True
    """Show what the job says, to its end, and end with its status."""
    stop_wait: int = 120
    """Seconds that `ray job stop` gives the job to commit, before it is killed. A notice of a spot machine gives 120 on AWS, 30 on GCP."""
    env: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Variables of the job and all its workers; none that are secret: Ray keeps them, and shows them to whoever may ask."""


def verbs() -> list[str]:
    """What can be submitted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem != "submit")


def run(flags: Flags, command: list[str]) -> None:
    """Submit, and without --no-wait follow to the end; the last line says what happened. Exits with the status of the job's command."""
    variables = _check(flags, command)
    verb, *rest = command
    # What Ray's head runs is a line for a shell: each word is quoted.
    entrypoint = shlex.join(["python", "-m", f"jobs.{verb}", *rest])
    head = Head(flags.address)
    name = head.submit(entrypoint, ".", variables, flags.stop_wait, flags.submission_id)
    where = f"--address {flags.address} {name}"
    print(f"{name}: submitted to {flags.address}; `ray job stop {where}` ends it with a commit, within {flags.stop_wait} s", flush=True)
    if not flags.wait:
        print(f"{name} was submitted, and nobody waits for it; `ray job logs --follow {where}` shows what it says")
        return
    try:
        outcome = head.follow(name, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        print(f"\n{name} goes on without a watcher; `ray job stop {where}` ends it", file=sys.stderr)
        sys.exit(130)
    if outcome.message:
        print(outcome.message)
    tail = {
        "succeeded": "", "was stopped": "; the same submission under another id goes on from its last commit",
        "failed": f" with status {outcome.status}; its last lines are above",
    }  # fmt: skip
    print(f"{name} {outcome.what}{tail[outcome.what]}", flush=True)
    sys.exit(outcome.status)


def _check(flags: Flags, command: list[str]) -> dict[str, str]:
    """Raise InputError for what should not be submitted; returns the job's variables."""
    if not command or command[0] not in verbs():
        raise InputError(f"{f'there is no verb {command[0]!r}' if command else 'nothing to submit'}; {USAGE}; verbs: {', '.join(verbs())}")
    refuse_in_command(["--address", flags.address], os.environ, TOLD)
    if not re.match(r"https?://[^/\s]", flags.address):
        raise InputError(f"--address is {flags.address!r}; give the http address of the head's dashboard, such as http://127.0.0.1:8265")
    if flags.stop_wait < 1:
        raise InputError(f"--stop-wait is {flags.stop_wait}; give whole seconds from 1 on, enough for a commit")
    variables = {}
    for pair in flags.env:
        name, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise InputError("--env takes NAME=value, one or more; got a word that is none")  # which may be a secret
        if name == STOP_WAIT or name in variables:
            raise InputError(f"--env has {name} twice, or --stop-wait beside it; leave one away")
        variables[name] = value
    refuse_in_variables(variables, os.environ, TOLD)
    refuse_in_command(command[1:], os.environ, TOLD)
    if not Path("jobs", f"{command[0]}.py").is_file() or not Path("mvgan/__init__.py").is_file():
        raise InputError(f"{Path.cwd()} has no jobs/ and mvgan/ to take along; run this in the folder of the checkout")
    refuse_in_files(Path.cwd(), os.environ, TOLD)
    return variables


def cli() -> None:
    """Run the verb: what follows -- is the command, and not read here."""
    command: list[str] = []

    def read(argv: list[str]) -> list[str]:
        ours = argv[: argv.index("--")] if "--" in argv else argv
        command.extend(argv[len(ours) + 1 :])
        return ours

    main(
        lambda flags: run(flags, command),
        Flags,
        "Run a verb as a job on a cluster, as in `python -m jobs.submit -- pipeline --preset tiny --videos s3://bucket/videos --storage "
        "s3://bucket/runs --name first`. Takes the code in this folder along, asks `ray job stop` to wait for a commit, refuses what looks "
        "like a secret, and ends with the status of the job, where `ray job submit` ends with 1 for every failure.",
        read,
    )


if __name__ == "__main__":
    cli()
