"""An unpickler that knows the opcodes and names by which official files are written, and fills plain containers only.

It is Python's, whose memo grows with what is in the file and not with what the file says.
"""

import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, TypeVar


T = TypeVar("T")


def shown(name: str, most: int = 100) -> str:
    """A name from a file as it may be printed: quoted, in one line, shortened."""
    return repr(name if len(name) <= most else name[: most - 3] + "...")


def one_line(error: BaseException, most: int = 200) -> str:
    """What an error says, or else its kind, without control characters, which a file may have brought into it."""
    words = (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in words)


class Containers(dict[str, Any]):
    """In place of dictionaries of other kinds: OrderedDict and dnnlib.EasyDict. Made empty, as a copy would take memory again and again."""

    def __init__(self) -> None:
        super().__init__()


class Dropped:
    """In place of what is no tensor and not needed: numpy's kinds of numbers, and numbers of theirs such as a layer's gain."""

    def __init__(self, *_: Any) -> None:
        pass


class _Opcodes(dict[int, Callable[[Any], None]]):
    """What to do at each opcode; `left` of them may come."""

    left = 0

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError("it is made of more parts than such files are")
        if code not in self:
            name = next((known.name for known in pickletools.opcodes if known.code == chr(code)), None)
            raise pickle.UnpicklingError(f"it has the opcode {name}, which such files do not use" if name else "its text is no pickle")
        return super().__getitem__(code)


AS_THEY_ARE = (
    "PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE "
    "BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET BINGET "
    "LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL BINPERSID"
)
"""Opcodes that take no more memory than the file has bytes for them, but for what an empty container takes."""

HANDLERS: dict[int, Callable[[Any], None]] = {
    code: pickle._Unpickler.dispatch[code] for code in (getattr(pickle, name)[0] for name in AS_THEY_ARE.split())
}


class Restricted(pickle._Unpickler):
    """Reads from `file` one object made of numbers, text, plain containers and what `allowed` gives for the names in the file.

    Raises UnpicklingError for other names and opcodes, and for more than `most` opcodes; a broken file may raise any exception.
    """

    def __init__(self, file: BinaryIO, allowed: Mapping[tuple[str, str], Any], most: int) -> None:
        super().__init__(file)
        self.allowed = allowed
        opcodes = self.dispatch = _Opcodes(HANDLERS)  # type: ignore[misc]  # of the class elsewhere, as it counts nothing there
        opcodes.left = most

    def find_class(self, module: str, name: str) -> Any:
        found = self.allowed.get(({"__builtin__": "builtins"}.get(module, module), name))
        if found is None:
            raise pickle.UnpicklingError(f"it wants {shown(f'{module}.{name}')}")
        return found


def _opcode(code: bytes) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Makes a function of an unpickler what it does at this opcode."""

    def place(function: Callable[[Any], None]) -> Callable[[Any], None]:
        HANDLERS[code[0]] = function
        return function

    return place


def _target(unpickler: Any, *kinds: type[T]) -> T:
    """What is to be filled: the top of the stack. A method of the same name of anything else, as a tensor's add, must not run."""
    target = unpickler.stack[-1]
    if type(target) not in kinds:
        raise pickle.UnpicklingError(f"it puts something into a {type(target).__name__}")
    return target


def _key(key: Any) -> Any:
    """`key`, which is hashed in no time: tuples of tuples, each named twice, would take for ever."""
    if type(key) not in (str, int):
        raise pickle.UnpicklingError(f"it has a {type(key).__name__} as a key")
    return key


@_opcode(pickle.APPEND)
def _append(unpickler: Any) -> None:
    value = unpickler.stack.pop()
    _target(unpickler, list).append(value)


@_opcode(pickle.APPENDS)
def _appends(unpickler: Any) -> None:
    values = unpickler.pop_mark()
    _target(unpickler, list).extend(values)


@_opcode(pickle.SETITEM)
def _set_item(unpickler: Any) -> None:
    value, key = unpickler.stack.pop(), unpickler.stack.pop()
    _target(unpickler, dict, Containers)[_key(key)] = value


@_opcode(pickle.SETITEMS)
def _set_items(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    target = _target(unpickler, dict, Containers)
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[_key(key)] = value


@_opcode(pickle.ADDITEMS)
def _add_items(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    _target(unpickler, set).update(map(_key, items))


@_opcode(pickle.REDUCE)
def _call(unpickler: Any) -> None:
    """Call what stands for a name; nothing else on the stack can be called. A tensor for arguments would become an object a number."""
    arguments = unpickler.stack.pop()
    if type(arguments) is not tuple:
        raise pickle.UnpicklingError(f"it calls something with a {type(arguments).__name__}")
    unpickler.stack[-1] = unpickler.stack[-1](*arguments)


@_opcode(pickle.NEWOBJ)
def _new_container(unpickler: Any) -> None:
    arguments, kind = unpickler.stack.pop(), unpickler.stack.pop()
    if kind is not Containers or arguments != ():
        raise pickle.UnpicklingError("it makes an object that is no container")
    unpickler.append(Containers())


@_opcode(pickle.BUILD)
def _refuse_state(unpickler: Any) -> None:
    """Drop the state of what is dropped itself; nothing else has one."""
    state = unpickler.stack.pop()
    if state and not isinstance(unpickler.stack[-1], Dropped):
        raise pickle.UnpicklingError(f"it sets the state of a {type(unpickler.stack[-1]).__name__}")
