"""Files that would run something, or take much memory or time, were they read as Python's unpickler reads them."""

import io
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

from tests.unit.importers.official_files import Saved, saved, their_modules


class Run:
    """What a hostile file holds: a call of whatever it likes."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def tensor(size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A file with one tensor, of a storage of two numbers."""
    built = Run(torch._utils._rebuild_tensor_v2, torch.zeros(2)._typed_storage(), 0, size, stride, False, {})
    return pickle.dumps({"G_ema": built})


def their_state() -> bytes:
    with their_modules():
        easy = sys.modules["dnnlib.util"].EasyDict(x=1)
        easy.__dict__["other"] = 3
        return pickle.dumps({"G_ema": easy})


def opcodes(*parts: bytes) -> bytes:
    """A file of these opcodes."""
    return b"\x80\x04" + b"".join(parts) + b"."


def body(content: Any) -> bytes:
    """The opcodes that make `content`."""
    return pickle.dumps(content, 3)[2:-1]


def call(name: str, arguments: bytes) -> bytes:
    """The opcodes that call what stands for `name` with what the opcodes `arguments` make."""
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode() + arguments + b"R"


def storage_of(about: Any, numbers: bytes = bytes(8), machine: Any = None) -> bytes:
    """A file with a storage in torch's form that says `about` itself what is given."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return about if value is Pickler else None

    buffer = io.BytesIO()
    buffer.write(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2))
    buffer.write(pickle.dumps({"little_endian": True} if machine is None else machine, 2))
    Pickler(buffer, 2).dump(Pickler)
    buffer.write(pickle.dumps(["0"], 2) + (2).to_bytes(8, "little") + numbers)
    return pickle.dumps({"G_ema": Run(torch.storage._load_from_bytes, buffer.getvalue())})


def zipped(numbers: int) -> bytes:
    """A storage of zeros in torch's newer form, compressed, which torch itself never writes."""
    plain, packed = io.BytesIO(), io.BytesIO()
    torch.save(torch.zeros(numbers)._typed_storage(), plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return pickle.dumps({"G_ema": Run(torch.storage._load_from_bytes, packed.getvalue())})


def doubled(levels: int) -> Any:
    """Tuples of tuples, each twice."""
    value: Any = ()
    for _ in range(levels):
        value = (value, value)
    return value


def larger_than_they_are() -> dict[str, bytes]:
    """Small files that would take much memory or time."""
    storage, written = torch.zeros(1000)._typed_storage(), io.BytesIO()
    torch.save(storage, written, _use_new_zipfile_serialization=False)
    blob = written.getvalue()
    again = [Run(torch._utils._rebuild_tensor_v2, storage, 0, (1000,), (1,), False, {}) for _ in range(500)]
    two = body(torch.zeros(8))
    many = body(list(range(100)))
    named = body({"type": "class", "state": {}, "class_name": doubled(60)})
    return {
        "bytes of any length": opcodes(b"\x96" + (3 << 40).to_bytes(8, "little")),
        "a tensor added to a tensor": opcodes(two, b"(", two, b"\x90"),
        "a tensor that is appended to": opcodes(two, b"K\x01a"),
        "a tensor that is extended": opcodes(two, b"(K\x01e"),
        "a tensor that is written into": opcodes(two, b"K\x00K\x01s"),
        "a tensor that is filled": opcodes(two, b"(K\x00K\x01u"),
        "a tensor as arguments": opcodes(call("numpy.dtype", two)),
        "a list copied as a set": opcodes(call("builtins.set", b"(" + many + b"t"), b"(K\x01\x90"),
        "a dictionary copied": opcodes(call("collections.OrderedDict", b"(" + body({"a": 1}) + b"t")),
        "an object by its class": opcodes(b"cnumpy\ndtype\n)\x81"),
        "a key that takes for ever": opcodes(b"}", body(doubled(60)), b"K\x01s"),
        "an item that takes for ever": opcodes(b"\x8f(", body(doubled(60)), b"\x90"),
        "a class name that takes for ever": opcodes(call("torch_utils.persistence._reconstruct_persistent_obj", b"(" + named + b"t")),
        "a storage that expands": zipped(1 << 20),
        "a storage named 500 times": pickle.dumps(again),
        "bytes read as a storage 500 times": pickle.dumps([Run(torch.storage._load_from_bytes, blob) for _ in range(500)]),
        "empty containers without end": opcodes(b"\x8f" * 1_000_001),
        "a storage of more than it holds": storage_of(("storage", torch.FloatStorage, "0", "cpu", 1 << 40, None)),
        "a storage of fewer than it holds": storage_of(("storage", torch.FloatStorage, "0", "cpu", 1, None)),
        "a storage of less than none": storage_of(("storage", torch.FloatStorage, "0", "cpu", -1, None)),
        "a storage cut short": storage_of(("storage", torch.FloatStorage, "0", "cpu", 2, None), bytes(7)),
        "a storage of another machine": storage_of(("storage", torch.FloatStorage, "0", "cpu", 2, None), machine={"little_endian": False}),
        "a storage of no kind": storage_of(("storage", "float", "0", "cpu", 2, None)),
        "a storage in which something is called": storage_of(Run(bytearray, 1 << 40)),
        "a storage of many parts": storage_of(("storage", torch.FloatStorage, "0", "cpu", 2, None), machine=[0] * 1000),
        "a tensor of many dimensions": tensor((1,) * 1000, (1,) * 1000),
        "a tensor whose size is text": pickle.dumps(
            {"G_ema": Run(torch._utils._rebuild_tensor_v2, torch.zeros(2)._typed_storage(), 0, "ab", "cd", False, {})}
        ),
    }


def hostile(tmp_path: Path) -> dict[str, bytes]:
    ran = tmp_path / "ran"
    with their_modules():
        inner = pickle.dumps({"G_ema": saved("Generator", {}, also=Run(os.mkdir, str(ran)))})
        deep = pickle.dumps({"G_ema": Saved("Generator", {}, {}, {"x": Run(eval, "open(1)")})})
    buffer = io.BytesIO()
    torch.save(Run(os.mkdir, str(ran)), buffer)
    return {
        "a call": pickle.dumps(Run(os.mkdir, str(ran))),
        "in a state": inner,
        "in a module": deep,
        "a call by name": b"cposix\nsystem\n(S'true'\ntR.",
        "getattr": pickle.dumps(Run(getattr, {}, "keys")),
        "a storage of another kind": pickle.dumps(Run(torch.storage._load_from_bytes, buffer.getvalue())),
        "a persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "nothing": b"",
        "text": b"no pickle at all",
        "a list": pickle.dumps([1, 2]),
        "a tensor beyond its storage": tensor((1000,), (1,)),
        "a tensor that is small in the file alone": tensor((10**8,), (0,)),
        "a tensor of negative steps": tensor((2,), (-1,)),
        "the state of a tensor": pickle.dumps(torch.zeros(2), 3)[:-1] + b"}X\x01\x00\x00\x00aK\x01sb.",
        "the state of a container": their_state(),
        "a place in the memo that is far away": b"\x80\x04}r\xff\xff\xff\x7fK\x01.",
        "a name that clears the screen": b"\x80\x04c\x1b[2Jos\nsystem\rx\n.",
        **larger_than_they_are(),
    }


REASONS = {
    "a call": "it wants 'posix.mkdir'",
    "a tensor beyond its storage": "more numbers than its storage holds",
    "a tensor that is small in the file alone": "more numbers than its storage holds",
    "a tensor of negative steps": "more numbers than its storage holds",
    "the state of a tensor": "it sets the state of a Tensor",
    "the state of a container": "it sets the state of a Containers",
    "a name that clears the screen": r"it wants '\x1b[2Jos.system\rx'",
    "bytes of any length": "opcode BYTEARRAY8",
    "a tensor added to a tensor": "puts something into a Tensor",
    "a tensor that is appended to": "puts something into a Tensor",
    "a tensor that is extended": "puts something into a Tensor",
    "a tensor that is written into": "puts something into a Tensor",
    "a tensor that is filled": "puts something into a Tensor",
    "a tensor as arguments": "calls something with a Tensor",
    "a list copied as a set": "puts something into a Dropped",
    "a dictionary copied": "takes 1 positional argument but 2 were given",
    "an object by its class": "makes an object that is no container",
    "a key that takes for ever": "a tuple as a key",
    "an item that takes for ever": "a tuple as a key",
    "a class name that takes for ever": "a network whose class has no name",
    "a storage that expands": "in another form than official files have",
    "a storage named 500 times": "its tensors are larger than the file",
    "bytes read as a storage 500 times": "its storages are larger than the file",
    "empty containers without end": "made of more parts",
    "a storage of more than it holds": "of another length than it says",
    "a storage of fewer than it holds": "of another length than it says",
    "a storage of less than none": "of another length than it says",
    "a storage cut short": "of another length than it says",
    "a storage of another machine": "of another kind of machine",
    "a storage of no kind": "a storage of another kind",
    "a storage in which something is called": "it wants '__builtin__.bytearray'",
    "a storage of many parts": "made of more parts",
    "a tensor of many dimensions": "a tensor of 1000 dimensions",
    "a tensor whose size is text": "whose size is no whole numbers",
}
