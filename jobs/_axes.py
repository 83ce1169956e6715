"""Settings with several values on the command line of a sweep: `--interval 2 3 4 2,3,4`."""

import dataclasses
import difflib
import typing
from typing import Any

from jobs._cli import flag_value, located
from mvgan.config import InputError, Run


Axes = dict[str, tuple[Any, ...]]
"""Values of settings, by their dotted paths."""


def split_axes(argv: list[str]) -> tuple[Axes, list[str]]:
    """The settings that are given several values, by their dotted paths, and the arguments without them.

    `--flag=a b` is `--flag a b`. Raises InputError for several values of what is no setting, with names that are near, or for a value
    that is empty or of the wrong kind.
    """
    axes: Axes = {}
    rest: list[str] = []
    for group in _grouped(argv):
        flag, equals, first = group[0].partition("=")
        texts = [first, *group[1:]] if equals else group[1:]
        if not flag.startswith("--") or len(texts) < 2:
            rest += group
            continue
        name = _named(flag)
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=3)
            hint = f"near are --{' and --'.join(near)}" if near else "see --help"
            raise InputError(f"{flag} is no setting that can take several values ({' '.join(texts)}); {hint}")
        path, kind = SETTINGS[name]
        if path in axes:
            raise InputError(f"{flag} is given twice; give all its values at once")
        if "" in texts:
            raise InputError(f"{flag} has an empty value among several; give a value in its place, or leave it away")
        values = [flag_value(flag, kind, text) for text in texts]
        axes[path] = tuple(located(value) if path == "pairs.init_from" and value else value for value in values)
    given = {*axes}
    for text in rest:
        name = text.partition("=")[0]
        if name.startswith("--") and (found := SETTINGS.get(_named(name))):
            if found[0] in given:
                raise InputError(f"{name} is given twice; give all its values at once")
            given.add(found[0])
    return axes, rest


def _named(flag: str) -> str:
    return flag.removeprefix("--").replace("_", "-")


def _grouped(argv: list[str]) -> list[list[str]]:
    """Each flag with what follows it, in order; before them what comes before any flag."""
    found: list[list[str]] = []
    for text in argv:
        if not found or text.startswith("--") or text == "-h":
            found.append([])
        found[-1].append(text)
    return found


def _settings(config: type, where: str = "") -> dict[str, tuple[str, Any]]:
    """Path and kind of each field of a config, by the name of its flag."""
    found: dict[str, tuple[str, Any]] = {}
    hints = typing.get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        path = where + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            found |= _settings(hints[field.name], f"{path}.")
        else:
            found[path.replace("_", "-")] = (path, hints[field.name])
    return found


SETTINGS = _settings(Run)
"""Path and kind of all settings of a run, by the names of their flags."""
