"""The calls that the reader of pickles carries out, and what stands for everything that it does not load.

A call of `CALLS` makes a tensor, a container or a plain value. A class that is named is a `Global`. An instance of a
class that is not loaded is `Inert`. Nothing is ever looked up or executed. Sizes are checked and work is counted by the
machine (`model.importing.pickles`) before anything is made.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from model.errors import CheckpointError
from model.limits import shown

if TYPE_CHECKING:
    from model.importing.pickles import Machine

BUILTINS = ("builtins", "__builtin__")
NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
SCALARS = {  # numpy's name of a type -> struct's
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f2": "e",
    "f4": "f", "f8": "d",
}  # fmt: skip


class Inert:
    """An instance of a class that is not loaded. name: "module.Class". args: of its making. state: as it was saved.

    items: what was appended to it or set in it, where it is a kind of list or dict.
    """

    __slots__ = ("args", "items", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.args = args
        self.state: Any = None
        self.items: list[Any] = []

    def __repr__(self) -> str:
        return f"an instance of {self.name[:100]}"


class Global:
    """A class or function that a pickle names. It is never looked up. name: "module.name"."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"the name {self.name[:100]}"


def _rebuild_tensor(machine: Machine, args: tuple[Any, ...]) -> Any:
    storage, offset, size, stride = args[:4]
    whole = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 16
    if not whole or any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
        raise CheckpointError(f"{machine.where}: a tensor's sizes must be integers of 0 or more")
    return machine.rebuild(storage, offset, size, stride)


def _rebuild_of_type(machine: Machine, args: tuple[Any, ...]) -> Any:
    """torch's _rebuild_tensor_v3, of types that no checkpoint of the families has: float8, unsigned integers."""
    key = next((value for value in reversed(machine.stack[-4:]) if isinstance(value, str)), "a tensor")
    kind = args[6].name if isinstance(args[6], Global) else "that is none"
    raise CheckpointError(f"{machine.where}: {shown(key)[1:-1]} is of the type {shown(kind)[1:-1]}, which is not read")


def _typed(machine: Machine, args: tuple[Any, ...]) -> Any:
    """torch's _rebuild_from_type_v2: (function, type, arguments, state)."""
    if isinstance(args[0], Global) and CALLS.get(args[0].name, (0, None))[1] is _typed:
        raise CheckpointError(f"{machine.where}: {args[0].name} must not call itself")
    return machine.call(args[0], args[2])


def _first(_: Machine, args: tuple[Any, ...]) -> Any:
    return args[0]


def _ordered(machine: Machine, args: tuple[Any, ...]) -> Any:
    made: dict[Any, Any] = {}
    if args and isinstance(args[0], dict | list):
        machine.spend(64 * len(args[0]))
    if args and isinstance(args[0], dict):
        made.update(args[0])
    elif args and isinstance(args[0], list):  # protocol 2 of Python 2: a list of pairs
        for pair in args[0]:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise CheckpointError(f"{machine.where}: an OrderedDict must be made of pairs")
            made[machine.key(pair[0])] = pair[1]
    return made


def _defaultdict(_: Machine, __: tuple[Any, ...]) -> Any:
    return {}


def _set(machine: Machine, args: tuple[Any, ...]) -> Any:
    values = args[0] if args else ()
    if not isinstance(values, list | tuple | set | frozenset):
        raise CheckpointError(f"{machine.where}: a set must be made of a list")
    machine.spend(64 * len(values))
    return {machine.key(value) for value in values}


def _size(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) != 1 or not isinstance(args[0], list | tuple):
        raise CheckpointError(f"{machine.where}: a torch.Size must be made of a list")
    machine.spend(8 * len(args[0]))
    return tuple(args[0])


def _encode(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1"):
        raise CheckpointError(f"{machine.where}: bytes must be a text in latin1")
    machine.spend(len(args[0]))
    return args[0].encode("latin1", "replace")


def _instance(machine: Machine, args: tuple[Any, ...]) -> Any:
    """copyreg's: (class, base, state of the base)."""
    if not args or not isinstance(args[0], Global):
        raise CheckpointError(f"{machine.where}: copyreg._reconstructor must be given a class")
    return Inert(args[0].name)


def _exactly(name: str, made: Any, *forms: tuple[type, ...]) -> Callable[[Machine, tuple[Any, ...]], Any]:
    """A call as Python's own pickles have it, by the types of its arguments. made: its value; None for an inert one."""

    def call(machine: Machine, args: tuple[Any, ...]) -> Any:
        if tuple(map(type, args)) not in forms:
            raise CheckpointError(f"{machine.where}: asks to call {name} with other than its value; nothing was run")
        return Inert(f"builtins.{name}", args) if made is None else made

    return call


def _scalar(_: Machine, args: tuple[Any, ...]) -> Any:
    """A number of numpy's, as Python's own; inert for its other types."""
    match args:
        case (Inert(name="numpy.dtype", args=(str(kind), *_), state=(_, "<" | "|", *_)), bytes(data)) if (
            kind in SCALARS and len(data) == struct.calcsize(SCALARS[kind])
        ):
            return struct.unpack(f"<{SCALARS[kind]}", data)[0]
    return Inert("numpy.scalar", args)


def _inert(name: str) -> Callable[[Machine, tuple[Any, ...]], Any]:
    return lambda _, args: Inert(name, args)


_VALUES = {  # of Python's own types; with other arguments some would take all memory, or make a class
    "type": _exactly("type", Global("builtins.NoneType"), (type(None),)),
    "bytes": _exactly("bytes", b"", ()),
    "bytearray": _exactly("bytearray", None, (), (bytes,), (str, str)),
    "complex": _exactly("complex", None, (float, float)),
    **{name: _exactly(name, None, (int, int, int)) for name in ("range", "xrange")},
}
CALLS: dict[
    str, tuple[int, Callable[[Machine, tuple[Any, ...]], Any]]
] = {  # name -> arguments at least, and what it makes
    "torch._utils._rebuild_tensor_v2": (4, _rebuild_tensor),
    "torch._utils._rebuild_tensor": (4, _rebuild_tensor),
    "torch._utils._rebuild_tensor_v3": (7, _rebuild_of_type),
    "torch._utils._rebuild_parameter": (1, _first),
    "torch._utils._rebuild_parameter_with_state": (1, _first),
    "torch._tensor._rebuild_from_type_v2": (4, _typed),
    "torch.Size": (1, _size),
    "torch.device": (1, _inert("torch.device")),
    "collections.OrderedDict": (0, _ordered),
    "collections.defaultdict": (0, _defaultdict),
    "_codecs.encode": (2, _encode),
    **{f"{module}.{name}": (0, _set) for module in BUILTINS for name in ("set", "frozenset")},
    **{f"{module}.{name}": (0, call) for module in BUILTINS for name, call in _VALUES.items()},
    "collections.Counter": (0, _ordered),
    **{f"{module}._reconstructor": (3, _instance) for module in ("copyreg", "copy_reg")},
    **{f"{module}.scalar": (1, _scalar) for module in NUMPY},
    **{f"{module}._reconstruct": (1, _inert("numpy._reconstruct")) for module in NUMPY},
    **{
        f"{module}._frombuffer": (4, _inert("numpy._frombuffer"))
        for module in ("numpy.core.numeric", "numpy._core.numeric")
    },
    "numpy.dtype": (1, _inert("numpy.dtype")),
    "argparse.Namespace": (0, _inert("argparse.Namespace")),
    "pathlib.PosixPath": (0, _inert("pathlib.PosixPath")),
    "pathlib.WindowsPath": (0, _inert("pathlib.WindowsPath")),
    "datetime.datetime": (1, _inert("datetime.datetime")),
    "datetime.timedelta": (0, _inert("datetime.timedelta")),
}
CONTAINERS = frozenset(name for name, (_, made) in CALLS.items() if made in (_ordered, _set, _defaultdict))
