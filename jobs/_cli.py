"""What all verbs share: flags, presets, config files, and one line instead of a traceback for a user's mistake."""

import argparse
import contextlib
import dataclasses
import errno
import io
import json
import logging
import os
import re
import select
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NoReturn, TypeVar

import tyro
import yaml

from jobs._secrets import JOB, refuse_in_job
from mvgan.config import Ended, InputError, Resources, Run
from mvgan.presets import preset, profile
from mvgan.settings import from_dict, to_dict
from mvgan.storage.run import read_run
from mvgan.storage.uri import Unreachable, open_store
from mvgan.validation import validate, validate_resources


T = TypeVar("T")
EXIT_USER_ERROR, EXIT_READER_LEFT = 2, 141
UNUSABLE = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG,
}  # fmt: skip
"""Why a folder or file that the user named cannot be used."""


@dataclass(frozen=True)
class Machines:
    """Flags of every verb that computes on a cluster."""

    profile: str = "laptop"
    """Where it is computed, to start from: laptop (one worker, CPU), one-gpu, node8 (8 GPUs), multi-node (16 GPUs) or spot (8 GPUs that
    may be taken away). The flags below go before it."""
    resources: Annotated[Resources, tyro.conf.arg(name="")] = field(default_factory=Resources)


@dataclass(frozen=True)
class Settings(Machines):
    """Flags of every verb that has a config."""

    preset: str = "demo"
    """Settings to start from: demo, smoke, tiny, gpu64, gpu128, ucf101, faceforensics or skytimelapse (see mvgan/presets.py)."""
    config: str | None = None
    """YAML file with settings that go before the preset's; flags go before both."""
    print_config: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the resolved settings as YAML, as --config takes them, and stop."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say what would run, with sizes and counts, and touch nothing."""
    settings: Annotated[Run, tyro.conf.arg(name="")] = field(default_factory=Run)

    def check(self) -> None:
        """Raise InputError for settings that fit no run; a verb that trains by others than these checks those."""
        validate(self.settings)


@dataclass(frozen=True)
class Place:
    """The folder of a new or existing run."""

    storage: str = "runs"
    """Folder or s3:// prefix that holds the runs."""
    name: str | None = None
    """Name of the run; without it that of the preset, of --videos with their folder's (demo-clips). The same command again goes on."""

    def uri(self, default: str) -> str:
        """The run's folder, named `default` where no name is given."""
        return f"{self.storage.rstrip('/')}/{self.name or default}"


def main(verb: Callable[[T], Any], flags: type[T], description: str, read: Callable[[list[str]], list[str]] = list) -> None:
    """Parse the flags of a verb and run it. `read` may take arguments for itself, and returns the others.

    A user's mistake prints one line and exits with status 2; so does, with status 1, what ends a run in an expected way.
    """
    try:
        try:
            _main(verb, flags, description, read)
        except SystemExit as stop:
            if stop.code:
                raise
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_left():
            raise
        sys.exit(EXIT_READER_LEFT)


def _main(verb: Callable[[T], Any], flags: type[T], description: str, read: Callable[[list[str]], list[str]]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("ray", "botocore", "boto3", "s3fs", "aiobotocore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        refuse_in_job(sys.argv[1:])
        arguments = parse(flags, read(sys.argv[1:]), description)
        if isinstance(arguments, Settings) and arguments.print_config:
            print(yaml.safe_dump(to_dict(arguments.settings), sort_keys=False), end="")
            return
        refuse_lost(arguments)
        verb(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except (Ended, Unreachable) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last commit", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        # A path of ours tells its name; anything else is a bug to be seen whole.
        if error.errno not in UNUSABLE or not error.filename or "\n" in str(error):
            raise
        print(f"error: {error.filename}: {error.strerror}; give a folder that can be used, or mend its permissions", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def _reader_left() -> bool:
    """Whether nobody reads standard output any more, as after `| head`; what is left to say then goes nowhere."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    left = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return left


def flag_value(flag: str, kind: Any, text: str) -> Any:
    """What `text` means as the value of a setting of this kind. Raises InputError when it is none."""
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"{flag} is true or false; got {text!r}")
        return text.lower() == "true"
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors):
            return tyro.cli(kind, args=["--", text], prog=_program())
    except SystemExit:
        raise InputError(f"{flag} {text}: {_mistake(errors.getvalue())}; see --help") from None


def parse(flags: type[T], argv: list[str], description: str) -> T:
    """Flags over config file over preset (or, with --run, over the run's own config). Raises InputError."""
    defaults: dict[str, Any] = {"resources": profile(_early(argv, "--profile").profile or "laptop")} if issubclass(flags, Machines) else {}
    if not issubclass(flags, Settings):
        arguments = _flags(flags, argv, description, flags(**defaults) if defaults else None)
        _refuse_empty(arguments)
        return arguments
    defaults["settings"] = _base(argv)
    if "--print-config" in argv:  # shows settings alone: what only a run needs may be left away
        defaults |= {f.name: "" for f in dataclasses.fields(flags) if f.default is tyro.MISSING}
    arguments = _flags(flags, argv, description, flags(**defaults))
    if not arguments.print_config:
        _refuse_empty(arguments)
    pairs = arguments.settings.pairs
    if pairs.init_from is not None:
        pairs = dataclasses.replace(pairs, init_from=located(pairs.init_from))
        arguments = dataclasses.replace(arguments, settings=dataclasses.replace(arguments.settings, pairs=pairs))
    arguments.check()
    validate_resources(arguments.resources)
    return arguments


def located(init_from: str) -> str:
    """A value of pairs.init_from as a worker finds it whose folder is another. Raises InputError where it is no place, or will be none."""
    _refuse_lost("pairs.init-from", init_from, os.environ)
    return open_store(init_from).uri


PLACES = ("against", "data", "features", "file", "list", "out", "run", "start", "storage", "videos")
"""Flags that name a file or a folder, or an s3:// URI."""


def refuse_lost(flags: Any, environment: Mapping[str, str] = os.environ) -> None:
    """Raise InputError in a job of Ray that took its code along, for a place in the folder of that code, which Ray removes.

    Flags that a verb names as its `SCRATCH` may be there.
    """
    for name, value in _values(flags):
        if name in PLACES and name not in getattr(flags, "SCRATCH", ()):
            _refuse_lost(name, value, environment)


def _refuse_lost(name: str, value: str, environment: Mapping[str, str]) -> None:
    taken_along = (json.loads(environment.get(JOB, "{}")).get("runtime_env") or {}).get("working_dir")
    if taken_along and not ("://" in value or os.path.isabs(value)):
        raise InputError(
            f"--{name} {value} would be in the job's own copy of the code, which Ray removes after it; give an s3:// URI, or a path "
            "from / on that all nodes share"
        )


def _values(flags: Any) -> Iterator[tuple[str, str]]:
    """Flags with text as their value, by name, those of groups too."""
    for field_ in dataclasses.fields(flags):
        value = getattr(flags, field_.name)
        if dataclasses.is_dataclass(value):
            yield from _values(value)
        elif isinstance(value, str):
            yield field_.name, value


def _refuse_empty(flags: Any, group: str = "") -> None:
    """Raise InputError for a flag with an empty value: to take it for one that was not given would run something else."""
    for field_ in dataclasses.fields(flags):
        value = getattr(flags, field_.name)
        if dataclasses.is_dataclass(value):
            _refuse_empty(value, f"{field_.name}." if isinstance(flags, Run) else "")
        elif value == "":
            raise InputError(f"--{group}{field_.name.replace('_', '-')} is empty; give a value, or leave it away")


def _flags(flags: type[T], argv: list[str], description: str, default: T | None) -> T:
    errors = io.StringIO()
    options: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(flags, args=argv, prog=_program(), description=description, **options)
    except SystemExit as stop:
        if stop.code != EXIT_USER_ERROR:
            raise
        raise InputError(f"{_mistake(errors.getvalue())}; see --help") from None


def _program() -> str:
    """How the verb was called: `python -m jobs.pairs`."""
    spec = sys.modules["__main__"].__spec__
    return f"python -m {spec.name}" if spec else os.path.basename(sys.argv[0])


def _mistake(box: str) -> str:
    """What the parser says was wrong, in one line. It draws a box of parts with rules between them.

    The box has colours on a terminal, and is drawn in ASCII, with a rule below its title, where standard output is not
    UTF-8 (LANG=C).
    """
    said = re.sub(r"[╭╮╰╯│]", " ", re.sub(r"\x1b\[[0-9;]*m", "", box)).partition("\n")[2]
    wrong, *more = [part for part in re.split(r"(?m)^ *[─-]{8,} *$", said) if part.strip()]
    if "Missing from" not in wrong:
        meant = "".join(part for part in more if re.match(r"\s*(Perhaps you|Arguments similar)", part))
        near = re.findall(r"(?m)^ {6}(--\S+)", meant)
        return " ".join(wrong.split()).rstrip(".") + (f"; near are {' and '.join(near)}" if near else "")
    # Flags and arguments without one stand at one indentation, what their help says at a deeper one.
    flags = re.findall(r"(?m)^ {6}(\S+)", wrong)
    missing = f"{' and '.join(flags)} {'is' if len(flags) == 1 else 'are'} missing"
    _, _, unknown = more[0].partition("Unrecognized options:")
    return f"{missing}; unknown: {' '.join(unknown.split())}" if unknown else missing


class _EarlyParser(argparse.ArgumentParser):
    """Reads the flags that name settings to start from; a flag without its value is a user's mistake like any other."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def _early(argv: list[str], *flags: str) -> argparse.Namespace:
    """The values of these flags alone, None for those that are not given."""
    early = _EarlyParser(add_help=False, allow_abbrev=False)
    for flag in flags:
        early.add_argument(flag)
    return early.parse_known_args([argument for argument in argv if argument not in ("-h", "--help")])[0]


def _base(argv: list[str]) -> Run:
    known = _early(argv, "--preset", "--config", "--run")
    if known.run and (known.preset or known.config):
        raise InputError("--run names a run with a config of its own; leave --preset and --config away")
    run = read_run(known.run).run if known.run else preset(known.preset or "demo")
    return from_dict(run, _read_yaml(known.config)) if known.config else run


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read --config {path}: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"--config {path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"--config {path} holds {type(values).__name__}; expected settings as `key: value`, as --print-config prints them")
    return values
