"""Limits of a config's fields: declared once, in the field's type, checked here, and told in words made from them.

    dim: Annotated[int, Interval(ge=1, le=16384)] = 512

The marks are those of annotated-types, which pydantic reads too, so a request's schema shares them. Knows no tensors.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Sequence
from functools import cache
from types import UnionType
from typing import Any, TypeVar

from annotated_types import BaseMetadata, Ge, GroupedMetadata, Gt, Le, MaxLen, MinLen

from model.errors import CheckpointError

T = TypeVar("T")
SHOWN = 80  # characters of a refused value that a message repeats
OBJECT_BYTES = 2**16  # of a field that holds any JSON object
OBJECT_DEPTH = 8  # objects and lists within each other in such a field


def build(cls: type[T], values: Any, where: str, key: str = "") -> T:
    """A config of the dataclass `cls` from a JSON object. where: names the file; key: the object's place in it.

    Lists become tuples. Raises CheckpointError naming the key that is unknown, missing, of another type or out of its
    limits, and the first relation between fields that `cls` itself refuses.
    """
    place = f"{where}: {key}" if key else where
    if not isinstance(values, dict):
        raise CheckpointError(f"{place} must be an object, got {shown(values)}")
    hints = {name: hint for name, hint in _hints(cls).items() if name in _fields(cls)}  # type: ignore[arg-type]
    if extra := sorted(set(values) - set(hints)):
        raise CheckpointError(f"{place}: unknown key {shown(extra[0])}; known are {', '.join(sorted(hints))}")
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise CheckpointError(f"{place}: the key {field.name!r} is missing")
    prefix = f"{key}." if key else ""
    read = {name: _read(hints[name], value, where, prefix + name) for name, value in values.items()}
    try:
        return cls(**read)
    except ValueError as error:
        raise CheckpointError(f"{place}: {error}") from None


def fault(cls: type, name: str, value: Any) -> str | None:
    """What is wrong with a value for the field `name` of the dataclass `cls`, in words; None for nothing."""
    hint = _hints(cls)[name]
    return None if _fits(hint, value) else _refusal(name, hint, value)


def _refusal(key: str, hint: Any, value: Any) -> str:
    return f"{key} must be {allowed(hint)}, got {shown(value)}"


def shown(value: Any) -> str:
    """`value` for a message: printable ASCII on one line, a long text or number cut, a list or an object only named."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        if len(value) <= 8 and all(isinstance(item, int | float) for item in value):
            return _cut(str(list(value)))
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str) and len(value) > SHOWN:
        return f"{_cut(ascii(value[:SHOWN]))} of {len(value)} characters"
    return _cut(ascii(value))


def one_line(text: object) -> str:
    """What a library says, for a message of ours: printable on one line, cut where it is long."""
    line = str(text)[:200]
    return line if line.isprintable() else ascii(line)[1:-1]


def printable(text: object) -> str:
    """The text on one line, with escapes for all that could tell a terminal something: controls, half characters."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


@cache  # a list of a thousand things asks the same few hints twenty thousand times
def _split(hint: Any) -> tuple[Any, Sequence[BaseMetadata]]:
    """Annotated[int, Interval(ge=1, le=8)] -> int, [Ge(1), Le(8)]."""
    if not hasattr(hint, "__metadata__"):
        return hint, ()
    marks: list[Any] = []
    for mark in hint.__metadata__:
        marks += mark if isinstance(mark, GroupedMetadata) else [mark]
    return hint.__origin__, marks


def _read(hint: Any, value: Any, where: str, key: str) -> Any:
    kind, _ = _split(hint)
    if isinstance(kind, UnionType):  # of a section that may be missing, or that is of one of several families
        parts = typing.get_args(kind)
        if value is None and type(None) in parts:
            return None
        return _read_family([part for part in parts if part is not type(None)], value, where, key)
    if dataclasses.is_dataclass(kind):
        return build(kind, value, where, key)  # type: ignore[arg-type]
    if section := _section(kind):
        if not _is_list(hint, value):
            raise CheckpointError(f"{where}: {_refusal(key, hint, value)}")
        return tuple(build(section, item, where, f"{key}[{i}]") for i, item in enumerate(value))
    if not _fits(hint, value):
        raise CheckpointError(f"{where}: {_refusal(key, hint, value)}")
    return tuple(value) if typing.get_origin(kind) is tuple else float(value) if kind is float else value


def _read_family(classes: Sequence[Any], value: Any, where: str, key: str) -> Any:
    """A section whose key "family" says which of the classes reads it. Without that key it is the first class's."""
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: {key} must be an object, got {shown(value)}")
    if "family" not in value:
        return build(classes[0], value, where, key)
    known = {family_of(cls): cls for cls in classes[1:]}
    family = value["family"]
    if not isinstance(family, str) or family not in known:
        allowed_ones = ", ".join(str(name) for name in known) or "left out"
        raise CheckpointError(f"{where}: {key}.family must be {allowed_ones}, got {shown(family)}")
    cls = known[family]
    if "family" not in _fields(cls):
        value = {name: item for name, item in value.items() if name != "family"}
    return build(cls, value, where, key)


def family_of(cls: Any) -> str | None:
    """What a config's section says as its "family": a class variable, or the default of a field. None: it is ours."""
    found: str | None = getattr(cls, "family", None)
    return found


@cache
def _fields(cls: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def _section(kind: Any) -> type | None:
    """The dataclass of which the type is a tuple, else None."""
    if typing.get_origin(kind) is not tuple or not dataclasses.is_dataclass(typing.get_args(kind)[0]):
        return None
    return typing.get_args(kind)[0]


def _is_list(hint: Any, value: Any) -> bool:
    return isinstance(value, list | tuple) and all(_within(mark, len(value)) for mark in _split(hint)[1])


def _fits(hint: Any, value: Any) -> bool:
    kind, marks = _split(hint)
    if kind in (int, float):
        right = type(value) is int or (kind is float and type(value) is float and math.isfinite(value))
        return right and all(_within(mark, value) for mark in marks)
    if kind is bool:
        return isinstance(value, bool)
    if kind is str:
        may_be_empty = not any(isinstance(mark, MinLen) for mark in marks)
        right = isinstance(value, str) and value.isprintable() and (bool(value.strip()) or (may_be_empty and not value))
        return right and all(_within(mark, len(value)) for mark in marks)
    if typing.get_origin(kind) is tuple:
        return _is_list(hint, value) and all(_fits(typing.get_args(kind)[0], item) for item in value)
    assert typing.get_origin(kind) is dict, kind
    return isinstance(value, dict) and _nests(value, OBJECT_DEPTH) and len(json.dumps(value)) <= OBJECT_BYTES


def _within(mark: BaseMetadata, number: Any) -> bool:
    match mark:
        case Ge(low) | MinLen(low):
            return bool(number >= low)
        case Gt(low):
            return bool(number > low)
        case Le(high) | MaxLen(high):
            return bool(number <= high)
    raise TypeError(f"{mark} is no limit that is known here")


def _nests(value: Any, levels: int) -> bool:
    """Whether at most `levels` objects and lists stand within each other."""
    if not isinstance(value, dict | list | tuple):
        return True
    inside = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_nests(item, levels - 1) for item in inside)


def allowed(hint: Any) -> str:
    """What a field's type allows, in words: "an integer from 1 to 256"."""
    kind, marks = _split(hint)
    if kind is int:
        return "an integer" + _range(marks)
    if kind is float:
        return "a number" + _range(marks)
    if kind is bool:
        return "true or false"
    low = next((mark.min_length for mark in marks if isinstance(mark, MinLen)), 0)
    high = next((mark.max_length for mark in marks if isinstance(mark, MaxLen)), None)
    if kind is str:
        return f"a text of {low} to {high} printable characters, {'not' if low else 'or empty, never'} blank"
    if typing.get_origin(kind) is tuple:
        if _section(kind):
            return f"a list of {low} to {high} objects"
        each, of_each = _split(typing.get_args(kind)[0])
        things = {int: f"integers{_range(of_each)}", float: f"numbers{_range(of_each)}", str: "texts"}[each]
        return f"a list of {low} to {high} {things}"
    return f"an object of at most {OBJECT_BYTES:,} bytes of JSON, {OBJECT_DEPTH} levels deep"


def _range(marks: Sequence[BaseMetadata]) -> str:
    text = ""
    high: Any = next((mark.le for mark in marks if isinstance(mark, Le)), None)
    for mark in marks:
        if isinstance(mark, Ge):
            text = f" of {mark.ge}" if mark.ge == high else f" from {mark.ge} to {high}"
        elif isinstance(mark, Gt):
            text = f" above {mark.gt}, up to {high}"
    return text
