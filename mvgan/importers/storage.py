"""The numbers of tensors in a pickle, in the form that torch had before its zip files and that its tensors still write.

torch's own reader would make storages as large as the file says, expand zip files, and call what this form does not need.
"""

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mvgan.importers.restricted import Restricted


HEAD = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
"""How the form begins: torch's magic number, and the version."""

DTYPES: dict[tuple[str, str], torch.dtype] = {
    ("torch", f"{name}Storage"): dtype
    for name, dtype in {
        "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Long": torch.int64,
        "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
        "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
    }.items()
}  # fmt: skip

MOST_DIMENSIONS, MOST_PARTS = 8, 200
"""Of a tensor, and of what stands before the numbers: 4, and some 30 opcodes, in official files."""


@dataclass(frozen=True)
class Storage:
    """Numbers of one kind, as bytes of the file."""

    dtype: torch.dtype
    content: memoryview


class _Reader(Restricted):
    def persistent_load(self, pid: Any) -> tuple[torch.dtype, str, int]:
        match pid:
            case ("storage", torch.dtype() as dtype, str() as key, str(), int() as count, None):
                return dtype, key, count
        raise pickle.UnpicklingError("a storage of another kind")


def _read(data: bytes) -> Storage:
    stream = io.BytesIO(data)
    stream.seek(len(HEAD))
    machine, (dtype, key, count), keys = (_Reader(stream, DTYPES, MOST_PARTS).load() for _ in range(3))
    if machine.get("little_endian") is not True or keys != [key]:
        raise pickle.UnpicklingError("a storage of another kind of machine, or of several parts")
    written, begin, size = int.from_bytes(stream.read(8), "little"), stream.tell(), count * dtype.itemsize
    if written != count or begin + size != len(data):
        raise pickle.UnpicklingError("a storage of another length than it says")
    return Storage(dtype, memoryview(data)[begin:])


class Builder:
    """Makes storages and tensors of a file of `size` bytes, and no more of them than the file has bytes, however often it names one."""

    def __init__(self, size: int) -> None:
        self._left = {"storages": size, "tensors": size}

    def names(self) -> dict[tuple[str, str], Callable[..., Any]]:
        """The names in the file that these functions stand for."""
        return {("torch._utils", "_rebuild_tensor_v2"): self.tensor, ("torch.storage", "_load_from_bytes"): self.storage}

    def storage(self, data: bytes) -> Storage:
        """The storage in `data`. Raises UnpicklingError, or what a broken file makes of it."""
        if not isinstance(data, bytes) or not data.startswith(HEAD):
            raise pickle.UnpicklingError("a storage in another form than official files have")
        self._take("storages", len(data))
        return _read(data)

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        """torch's own way to build a tensor, without the hooks that a file may bring, from numbers that the storage holds."""
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        if not type(size) is type(stride) is tuple or any(type(number) is not int for number in (offset, *size, *stride)):
            raise pickle.UnpicklingError("a tensor whose size is no whole numbers")
        if len(size) > MOST_DIMENSIONS:
            raise pickle.UnpicklingError(f"a tensor of {len(size)} dimensions")
        held, count = len(storage.content) // storage.dtype.itemsize, 1
        for length in size:
            count *= length
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if min((offset, *size, *stride)) < 0 or count > held or (count and last >= held):
            raise pickle.UnpicklingError("a tensor of more numbers than its storage holds")
        if count == 0:
            return torch.empty(size, dtype=storage.dtype)
        self._take("tensors", len(storage.content))
        numbers = torch.frombuffer(bytearray(storage.content), dtype=storage.dtype)
        return numbers.as_strided(size, stride, offset).contiguous()

    def _take(self, what: str, count: int) -> None:
        self._left[what] -= count
        if self._left[what] < 0:
            raise pickle.UnpicklingError(f"its {what} are larger than the file")
