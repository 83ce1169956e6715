"""Reads StyleGAN2-ADA's and StyleGAN3's pickles without running anything that is in them.

Such a file holds each network as its own source code, which their `torch_utils.persistence` executes, and its state. Here only the state is
taken: the names in ALLOWED and those of `storage` are known, by which tensors and plain containers are built, and every other one is
refused.
"""

import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mvgan.config import InputError
from mvgan.importers.restricted import Containers, Dropped, Restricted, one_line, shown
from mvgan.importers.storage import Builder


MOST_LEVELS, MOST_LETTERS = 10, 100
"""Of modules in modules, and of the name of one: official networks have 4 and some 20."""

MOST_PARTS = 1_000_000
"""Opcodes of a file; official ones have some ten thousands."""


@dataclass(frozen=True)
class Module:
    """A network in the file: the name of its class, and its attributes, those of torch's Module included."""

    name: str
    state: dict[str, Any]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Its parameters and buffers and those of the modules within, by dotted names.

        Raises InputError for one that is in two places, as a small file could then hold more of them than any memory.
        """
        yield from self._within("", set(), MOST_LEVELS)

    def _within(self, where: str, met: set[int], levels: int) -> Iterator[tuple[str, Tensor]]:
        if levels == 0:
            raise InputError(f"network {shown(self.name)} of the file has modules {MOST_LEVELS} levels deep; give another")
        for kind in ("_parameters", "_buffers"):
            for name, value in self._held(kind, Tensor, met):
                yield where + name, value
        for name, module in self._held("_modules", Module, met):
            yield from module._within(f"{where}{name}.", met, levels - 1)

    def _held(self, kind: str, what: type, met: set[int]) -> Iterator[tuple[str, Any]]:
        """Those in the dictionary of this kind that are not None, also put into `met`. Raises InputError for anything else there."""
        held, network = self.state.get(kind), f"network {shown(self.name)} of the file"
        if not isinstance(held, dict):
            raise InputError(f"{network} has no {kind}; give a StyleGAN2-ADA or StyleGAN3 network file")
        for name, value in held.items():
            if value is None:
                continue
            if not isinstance(value, what) or not isinstance(name, str) or len(name) > MOST_LETTERS:
                raise InputError(f"{network} has {type(value).__name__} {shown(str(name))} in its {kind}; give another")
            if id(value) in met:
                raise InputError(f"{network} has {shown(name)} in its {kind} that is elsewhere too; give another")
            met.add(id(value))
            yield name, value


def _module(about: Any) -> Module:
    """In place of torch_utils.persistence, which would execute `module_src`."""
    if not isinstance(about, dict) or about.get("type") != "class" or not isinstance(about.get("state"), dict):
        raise pickle.UnpicklingError("a network of an unknown kind")
    name = about.get("class_name")
    if not isinstance(name, str):
        raise pickle.UnpicklingError("a network whose class has no name")
    return Module(name, about["state"])


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _module,
    ("dnnlib.util", "EasyDict"): Containers,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("collections", "OrderedDict"): Containers,
    ("builtins", "set"): Dropped,
    ("numpy", "dtype"): Dropped,
    ("numpy.core.multiarray", "scalar"): Dropped,
    ("numpy._core.multiarray", "scalar"): Dropped,
}


def read_pickle(data: bytes, uri: str) -> dict[str, Any]:
    """The dictionary in the file `data`, its networks as Module. Raises InputError, naming `uri`, for whatever else a pickle may hold."""
    try:
        content = Restricted(io.BytesIO(data), ALLOWED | Builder(len(data)).names(), MOST_PARTS).load()
    except InputError:
        raise
    except Exception as error:  # whatever a broken or hostile file makes of it
        raise InputError(
            f"{uri} is no network file of StyleGAN2-ADA or StyleGAN3, or holds more than tensors ({one_line(error)}); "
            "nothing in it was run; give another"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{uri} holds {type(content).__name__}, expected networks by name; give a StyleGAN2-ADA or StyleGAN3 network file")
    return content
