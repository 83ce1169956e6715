"""Reads StyleGAN2-ADA's and StyleGAN3's pickles without running anything that is in them.

Such a file holds each network as its own source code, which their `torch_utils.persistence` executes, and its state. Here only the state is
taken: an unpickler that knows the names in ALLOWED, by which tensors and plain containers are built, and refuses every other one. It is
Python's, whose memo grows with what is in the file and not with what the file says, and lets a file set the state of nothing.
"""

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mvgan.config import InputError


@dataclass(frozen=True)
class Module:
    """A network in the file: the name of its class, and its attributes, those of torch's Module included."""

    name: str
    state: dict[str, Any]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Its parameters and buffers and those of the modules within, by dotted names."""
        for kind in ("_parameters", "_buffers"):
            for name, value in self._held(kind, Tensor):
                yield name, value
        for name, module in self._held("_modules", Module):
            yield from ((f"{name}.{inner}", tensor) for inner, tensor in module.tensors())

    def _held(self, kind: str, what: type) -> Iterator[tuple[str, Any]]:
        """Those in the dictionary of this kind that are not None. Raises InputError for anything else there."""
        held = self.state.get(kind)
        if not isinstance(held, dict):
            raise InputError(f"network {self.name} of the file has no {kind}; give a StyleGAN2-ADA or StyleGAN3 network file")
        for name, value in held.items():
            if value is not None:
                if not isinstance(value, what) or not isinstance(name, str):
                    raise InputError(f"network {self.name} of the file has {type(value).__name__} {name!r} in its {kind}; give another")
                yield name, value


class _Containers(dict[str, Any]):
    """In place of dnnlib.EasyDict, a dictionary."""


class _Dropped:
    """In place of what is no tensor and not needed: numpy's kinds of numbers, and numbers of theirs such as a layer's gain."""

    def __init__(self, *_: Any) -> None:
        pass


def _module(about: Any) -> Module:
    """In place of torch_utils.persistence, which would execute `module_src`."""
    if not isinstance(about, dict) or about.get("type") != "class" or not isinstance(about.get("state"), dict):
        raise pickle.UnpicklingError("a network of an unknown kind")
    return Module(str(about.get("class_name")), about["state"])


def _storage(data: bytes) -> torch.storage.TypedStorage:
    """torch's own way to give a storage, with its restricted reader."""
    storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("something else where a storage is due")
    return storage


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """torch's own way to build a tensor, without the hooks that a file may bring, from numbers that the storage holds."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("a tensor without a storage")
    held = storage._untyped_storage.nbytes() // torch.empty(0, dtype=storage.dtype).element_size()
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    count = math.prod(int(length) for length in size)
    if min((offset, *size, *stride)) < 0 or count > held or (count and last >= held):
        raise pickle.UnpicklingError("a tensor of more numbers than its storage holds")
    tensor: Tensor = torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())
    return tensor.clone()


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _module,
    ("dnnlib.util", "EasyDict"): _Containers,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("numpy", "dtype"): _Dropped,
    ("numpy.core.multiarray", "scalar"): _Dropped,
    ("numpy._core.multiarray", "scalar"): _Dropped,
}


class _Unpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        found = ALLOWED.get(({"__builtin__": "builtins"}.get(module, module), name))
        if found is None:
            raise pickle.UnpicklingError(f"it wants {module}.{name}")
        return found


def _refuse_state(unpickler: Any) -> None:
    """Drop the state of what is dropped itself; nothing else has one."""
    state = unpickler.stack.pop()
    if state and not isinstance(unpickler.stack[-1], _Dropped):
        raise pickle.UnpicklingError(f"it sets the state of a {type(unpickler.stack[-1]).__name__}")


_Unpickler.dispatch[pickle.BUILD[0]] = _refuse_state


def read_pickle(data: bytes, uri: str) -> dict[str, Any]:
    """The dictionary in the file `data`, its networks as Module. Raises InputError, naming `uri`, for whatever else a pickle may hold."""
    try:
        content = _Unpickler(io.BytesIO(data)).load()
    except InputError:
        raise
    except Exception as error:  # whatever a broken or hostile file makes of it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{uri} is no network file of StyleGAN2-ADA or StyleGAN3, or holds more than tensors ({reason}); "
            "nothing in it was run; give another"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{uri} holds {type(content).__name__}, expected networks by name; give a StyleGAN2-ADA or StyleGAN3 network file")
    return content
