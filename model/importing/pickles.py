"""A reader of pickles that executes nothing: a machine of our own over the opcodes of protocols 0 to 5.

    value, end = Machine(data, rebuild).load()

The only calls it carries out are those of `CALLS`: tensors, containers, and a few plain values. An instance of any
other class becomes `Inert`, which holds its name and state. Any other call is refused by name, and so is whatever asks
for the modules of `FORBIDDEN`, called or not. Work and memory are bounded by the bytes read: no opcode allocates what
its operand only claims, and keys are values whose hash is one step. Knows no tensors and no files.

The format: CPython's Lib/pickletools.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from model.errors import CheckpointError
from model.importing.calls import BUILTINS, CALLS, CONTAINERS, Global, Inert
from model.limits import shown

MAX_OPCODES = 1_500_000  # some two seconds; a state dict of 2,000 tensors has 40,000
MAX_MEMO = MAX_OPCODES  # the highest index; torch counts up
MAX_SPENT = 2**26  # bytes and items that operands and copies may have together
FORBIDDEN = (  # modules
    *("posix", "nt", "os", "subprocess", "sys", "pty", "shutil", "runpy", "importlib", "imp", "socket", "ctypes"),
    *("code", "codeop", "pdb", "bdb", "webbrowser", "platform", "signal", "multiprocessing", "threading", "asyncio"),
    *("http", "urllib", "ftplib", "smtplib", "pickle", "_pickle", "marshal", "types", "operator", "_operator"),
    *("functools", "itertools", "inspect", "io", "_io", "tempfile", "timeit", "cProfile", "profile", "doctest"),
    *("pydoc", "pip", "setuptools", "torch.hub", "torch.jit", "torch.package", "torch.storage"),
    *("torch.utils.collect_env", "torch.utils.cpp_extension", "torch.serialization"),
)
STORAGES = ("torch.storage.UntypedStorage", "torch.storage.TypedStorage")  # types that are named, and not read
PLAIN = (  # types of Python's own, under the names that protocols 0 to 2 write too
    *("set", "frozenset", "list", "tuple", "dict", "int", "long", "float", "bool", "str", "unicode", "bytes"),
    *("bytearray", "complex", "range", "xrange", "object", "type", "Ellipsis"),
)


class Mark:
    """Where a group of values begins on the stack."""


MARK = Mark()
Rebuild = Callable[[Any, int, tuple[int, ...], tuple[int, ...]], Any]


class Machine:
    """Reads one pickle. data: bytes that it begins in, at `at`. where: names the file.

    rebuild(storage, offset, size, stride) makes a tensor; storage is what `persistent` made of its id.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        where: str,
        rebuild: Rebuild,
        persistent: Callable[[Any], Any],
        at: int = 0,
    ) -> None:
        self.data, self.where, self.rebuild, self.persistent = data, where, rebuild, persistent
        self.at = at
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.spent = 0

    def load(self) -> tuple[Any, int]:
        """What was pickled, and where its bytes end. Raises CheckpointError naming the file."""
        table = OPCODES
        try:
            for _ in range(MAX_OPCODES):
                code = self.data[self.at]
                self.at += 1
                if code == STOP:
                    return self.pop(), self.at
                operation = table.get(code)
                if operation is None:
                    raise self.bad(f"the pickle has the unknown opcode {code}")
                operation(self)
        except IndexError:  # of the stack, or of the data
            raise self.bad("the pickle is cut short or damaged") from None
        except (struct.error, ValueError, UnicodeError, TypeError, OverflowError):
            raise self.bad("the pickle is damaged") from None
        raise self.bad(f"the pickle has more than {MAX_OPCODES:,} opcodes")

    def bad(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {what}")

    # The operands.

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise self.bad("the pickle is cut short: an operand is longer than the file")
        if count > 8:
            self.spend(count)
        begin = self.at
        self.at += count
        return bytes(self.data[begin : self.at])

    def spend(self, count: int) -> None:
        self.spent += count
        if self.spent > MAX_SPENT:
            raise self.bad(f"the pickle has more than {MAX_SPENT:,} bytes beside its tensors")

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        window = bytes(self.data[self.at : self.at + 2**16])
        end = window.find(b"\n")
        if end < 0:
            raise self.bad("the pickle is cut short, or has a line of more than 65,536 bytes")
        self.at += end + 1
        return window[:end]

    # The stack.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is MARK:
            raise self.bad("the pickle is damaged: a value is missing")
        return value

    def pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (value := self.stack.pop()) is not MARK:
            items.append(value)
        items.reverse()
        return items

    def top(self) -> Any:
        value = self.stack[-1]
        if value is MARK:
            raise self.bad("the pickle is damaged: a value is missing")
        return value

    def key(self, value: Any) -> Any:
        """`value`, if its hash is one step: a nested tuple's would take as long as it is large."""
        if isinstance(value, tuple):
            plain = len(value) <= 8 and all(isinstance(item, str) for item in value)
        elif isinstance(value, int):
            plain = abs(value) < 2**64  # larger ones could be made to have one hash
        else:
            plain = value is None or isinstance(value, str | float | bytes | Inert | Global)
        if not plain:
            raise self.bad("a key of a dict must be a text or a number")
        return value

    def put(self, index: int) -> None:
        if not 0 <= index <= MAX_MEMO:
            raise self.bad(f"the pickle's memo must have at most {MAX_MEMO:,} places, got {shown(index)}")
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise self.bad("the pickle is damaged: it refers to what is not there")
        self.push(self.memo[index])

    # What a pickle may ask for.

    def named(self, module: Any, name: Any) -> Global:
        whole = f"{module}.{name}"
        if not (isinstance(module, str) and isinstance(name, str) and whole.isprintable() and len(whole) <= 300):
            raise self.bad(f"a class must be named by text, got {shown(whole[:200])}")
        inside = any(module == part or module.startswith(part + ".") for part in FORBIDDEN)
        if (inside and whole not in STORAGES) or (module in BUILTINS and name not in PLAIN):
            raise self.bad(f"asks for {shown(whole)[1:-1]}, which could run a program; nothing was run")
        return Global(whole)

    def call(self, what: Any, args: Any) -> Any:
        if not isinstance(what, Global) or not isinstance(args, tuple):
            raise self.bad(f"the pickle asks to call {shown(str(what))[1:-1]}, which is no function")
        known = CALLS.get(what.name)
        if known is None or len(args) < known[0]:
            raise self.bad(f"asks to call {shown(what.name)[1:-1]}, which is not allowed; nothing was run")
        return known[1](self, args)

    def new(self, cls: Any, args: Any) -> Any:
        if not isinstance(cls, Global) or not isinstance(args, tuple):
            raise self.bad("the pickle makes an instance of what is no class")
        return CALLS[cls.name][1](self, args) if cls.name in CONTAINERS else Inert(cls.name, args)

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if isinstance(target, Inert):
            target.state = state
        elif isinstance(target, Global):
            raise self.bad(f"the pickle changes {shown(target.name)[1:-1]} itself")
        # The attributes of a dict or a tensor (torch's `_metadata`, say) are not needed by anybody.

    def append(self, target: Any, values: list[Any]) -> None:
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Inert):
            target.items.extend(values)
        else:
            raise self.bad("the pickle is damaged: it appends to what is no list")

    def set_items(self, target: Any, values: list[Any]) -> None:
        if len(values) % 2:
            raise self.bad("the pickle is damaged: a key has no value")
        pairs = zip(values[::2], values[1::2], strict=True)
        if isinstance(target, dict):
            for key, value in pairs:
                target[self.key(key)] = value
        elif isinstance(target, Inert):
            target.items.extend(pairs)
        else:
            raise self.bad("the pickle is damaged: it sets an item of what is no dict")

    def add_items(self) -> None:
        values = self.pop_to_mark()
        target = self.top()
        if not isinstance(target, set):
            raise self.bad("the pickle is damaged: it adds to what is no set")
        target.update(self.key(value) for value in values)

    def decimal(self, text: bytes) -> int:
        if len(text) > 1000:
            raise self.bad("the pickle has a number of more than 1,000 digits")
        return int(text)

    def long(self, count: int) -> None:
        if count > 1000:
            raise self.bad("the pickle has a number of more than 1,000 bytes")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def text(self, count: int) -> None:
        self.push(self.take(count).decode("utf-8", "surrogatepass"))

    def old_text(self) -> None:
        quoted = self.line().strip()
        if len(quoted) < 2 or quoted[:1] != quoted[-1:] or quoted[:1] not in (b"'", b'"') or b"\\" in quoted:
            raise self.bad("the pickle has a text that is not read here")
        self.push(quoted[1:-1].decode("latin1"))

    def integer_line(self) -> None:
        text = self.line()
        self.push(text == b"01" if text in (b"00", b"01") else self.decimal(text))

    def dup(self) -> None:
        self.push(self.top())

    def pop_any(self) -> None:
        self.stack.pop()

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def dict_from_mark(self) -> None:
        values = self.pop_to_mark()
        made: dict[Any, Any] = {}
        self.set_items(made, values)
        self.push(made)

    def reduce(self) -> None:
        args = self.pop()
        self.push(self.call(self.pop(), args))

    def new_object(self) -> None:
        args = self.pop()
        self.push(self.new(self.pop(), args))

    def new_object_ex(self) -> None:
        self.pop()  # keyword arguments
        self.new_object()

    def old_instance(self, cls: Any, args: list[Any]) -> None:
        """INST and OBJ call the class, or the function, that they name."""
        if args or not isinstance(cls, Global):
            self.push(self.call(cls, tuple(args)))
        else:
            self.push(Inert(cls.name))

    def instance_line(self) -> None:
        module, name = self.line().decode(), self.line().decode()
        self.old_instance(self.named(module, name), self.pop_to_mark())

    def instance(self) -> None:
        cls, *args = self.pop_to_mark()
        self.old_instance(cls, args)

    def global_line(self) -> None:
        module, name = self.line().decode(), self.line().decode()
        self.push(self.named(module, name))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.push(self.named(module, name))

    def append_one(self) -> None:
        value = self.pop()
        self.append(self.top(), [value])

    def append_many(self) -> None:
        values = self.pop_to_mark()
        self.append(self.top(), values)

    def set_one(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items(self.top(), [key, value])

    def set_many(self) -> None:
        values = self.pop_to_mark()
        self.set_items(self.top(), values)

    def frozen(self) -> None:
        self.push({self.key(value) for value in self.pop_to_mark()})


STOP = ord(".")
OPCODES: dict[int, Callable[[Machine], Any]] = {
    ord(code): operation
    for code, operation in {
        "\x80": lambda m: m.take(1),  # PROTO
        "\x95": lambda m: m.take(8),  # FRAME
        "(": lambda m: m.push(MARK),
        "0": Machine.pop_any,
        "1": Machine.pop_to_mark,
        "2": Machine.dup,
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "I": Machine.integer_line,
        "J": lambda m: m.push(m.number("<i")),
        "K": lambda m: m.push(m.number("<B")),
        "M": lambda m: m.push(m.number("<H")),
        "L": lambda m: m.push(m.decimal(m.line().rstrip(b"L"))),
        "\x8a": lambda m: m.long(m.number("<B")),
        "\x8b": lambda m: m.long(m.number("<I")),
        "F": lambda m: m.push(float(m.line()[:100])),
        "G": lambda m: m.push(m.number(">d")),
        "S": Machine.old_text,
        "T": lambda m: m.push(m.take(m.number("<I")).decode("latin1")),
        "U": lambda m: m.push(m.take(m.number("<B")).decode("latin1")),
        "V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
        "X": lambda m: m.text(m.number("<I")),
        "\x8c": lambda m: m.text(m.number("<B")),
        "\x8d": lambda m: m.text(m.number("<Q")),
        "B": lambda m: m.push(m.take(m.number("<I"))),
        "C": lambda m: m.push(m.take(m.number("<B"))),
        "\x8e": lambda m: m.push(m.take(m.number("<Q"))),
        "\x96": lambda m: m.push(m.take(m.number("<Q"))),  # BYTEARRAY8
        "]": lambda m: m.push([]),
        "l": lambda m: m.push(m.pop_to_mark()),
        "a": Machine.append_one,
        "e": Machine.append_many,
        ")": lambda m: m.push(()),
        "t": lambda m: m.push(tuple(m.pop_to_mark())),
        "\x85": lambda m: m.tuple_of(1),
        "\x86": lambda m: m.tuple_of(2),
        "\x87": lambda m: m.tuple_of(3),
        "}": lambda m: m.push({}),
        "d": Machine.dict_from_mark,
        "s": Machine.set_one,
        "u": Machine.set_many,
        "\x8f": lambda m: m.push(set()),
        "\x90": Machine.add_items,
        "\x91": Machine.frozen,
        "g": lambda m: m.get(m.decimal(m.line())),
        "h": lambda m: m.get(m.number("<B")),
        "j": lambda m: m.get(m.number("<I")),
        "p": lambda m: m.put(m.decimal(m.line())),
        "q": lambda m: m.put(m.number("<B")),
        "r": lambda m: m.put(m.number("<I")),
        "\x94": lambda m: m.put(len(m.memo)),  # MEMOIZE
        "c": Machine.global_line,
        "\x93": Machine.stack_global,
        "R": Machine.reduce,
        "b": Machine.build,
        "i": Machine.instance_line,
        "o": Machine.instance,
        "\x81": Machine.new_object,
        "\x92": Machine.new_object_ex,
        "P": lambda m: m.push(m.persistent(m.line().decode())),
        "Q": lambda m: m.push(m.persistent(m.pop())),
    }.items()
}
