"""Settings as nested dictionaries, as `run.json` and files of settings hold them: read, written and compared."""

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar

from mvgan.config import InputError, RankRule


if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def to_dict(config: Any) -> dict[str, Any]:
    """A config as nested dictionaries of plain values; tuples become lists."""
    return {
        f.name: to_dict(value)
        if dataclasses.is_dataclass(value := getattr(config, f.name))
        else (list(value) if isinstance(value, tuple) else value)
        for f in dataclasses.fields(config)
    }


def from_dict(base: T, values: dict[str, Any], where: str = "") -> T:
    """`base` with `values` in place of its own. Raises InputError for unknown keys and wrong kinds."""
    hints = typing.get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}{key}"
        if key not in hints:
            raise InputError(f"unknown setting {path!r}; known here: {', '.join(hints)}")
        old = getattr(base, key)
        if dataclasses.is_dataclass(old):
            if not isinstance(value, dict):
                raise InputError(f"setting {path!r} is a group of settings; got {value!r}")
            group: Any = old
            changes[key] = from_dict(group, value, path + ".")
        else:
            changes[key] = _checked(path, value, hints[key])
    return dataclasses.replace(base, **changes)


def _checked(path: str, value: Any, hint: Any) -> Any:
    if typing.get_origin(hint) is Literal:
        if not _is_one_of(value, hint):
            raise InputError(f"setting {path!r} is one of {', '.join(map(str, typing.get_args(hint)))}; got {value!r}")
        return value
    if hint == RankRule:
        named, number = typing.get_args(hint)
        if not _is_one_of(value, named) and type(value) is not number:
            raise InputError(f"setting {path!r} is one of {', '.join(typing.get_args(named))}, or a whole number; got {value!r}")
        return value
    if typing.get_origin(hint) is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
            raise InputError(f"setting {path!r} is a list of whole numbers; got {value!r}")
        return tuple(sorted(set(items)))
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, bool) != (bool in kinds) or not isinstance(value, (*kinds, int) if float in kinds else kinds):
        names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
        raise InputError(f"setting {path!r} is of kind {names}; got {value!r}")
    return value


def _is_one_of(value: Any, hint: Any) -> bool:
    return any(value == known and type(value) is type(known) for known in typing.get_args(hint))


def differences(old: dict[str, Any], new: dict[str, Any], where: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted paths at which two config dictionaries differ, with (old, new)."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= differences(a, b, f"{where}{key}.")
        elif a != b:
            found[where + key] = (a, b)
    return found
