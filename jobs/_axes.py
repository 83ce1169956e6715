"""Settings with several values on the command line of a sweep: `--interval 2 3 4 2,3,4`."""

import dataclasses
import difflib
import typing
from typing import Any

from jobs._cli import flag_value
from mvgan.config import InputError, Run


Axes = dict[str, tuple[Any, ...]]


def split_axes(argv: list[str]) -> tuple[Axes, list[str]]:
    """The settings that are given several values, by their dotted paths, and the arguments without them.

    Raises InputError for several values of what is no setting, with names that are near, or for a value of the wrong kind.
    """
    axes: Axes = {}
    rest: list[str] = []
    for flag, texts in _grouped(argv):
        if flag is None or len(texts) < 2:
            rest += [flag or "", *texts] if flag is not None else texts
            continue
        name = _named(flag)
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=3)
            hint = f"near are --{' and --'.join(near)}" if near else "see --help"
            raise InputError(f"{flag} is no setting that can take several values ({' '.join(texts)}); {hint}")
        path, kind = SETTINGS[name]
        if path in axes:
            raise InputError(f"{flag} is given twice; give all its values at once")
        axes[path] = tuple(flag_value(flag, kind, text) for text in texts)
    for text in rest:
        name = text.partition("=")[0]
        if name.startswith("--") and (found := SETTINGS.get(_named(name))) and found[0] in axes:
            raise InputError(f"{name} is given twice; give all its values at once")
    return axes, rest


def _named(flag: str) -> str:
    return flag.removeprefix("--").replace("_", "-")


def _grouped(argv: list[str]) -> list[tuple[str | None, list[str]]]:
    """Each flag with what follows it, in order; what comes before any flag has None."""
    found: list[tuple[str | None, list[str]]] = [(None, [])]
    for text in argv:
        if text.startswith("--"):
            found.append((text, []))
        else:
            found[-1][1].append(text)
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
