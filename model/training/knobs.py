"""Knobs: fields of a dataclass that also hold their help and limits. So each option is declared once.

    @dataclass(frozen=True)
    class Options:
        batch: int = field(default=16, metadata=knob("Samples in a step.", ge=1))

    parse(knobs(Options)["batch"], "0")  # InvalidRequest: batch must be an integer of 1 or more, got 0

The command line makes its flags and its `--set NAME=VALUE` from them. It imports this module to show --help, so the
module imports no torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from model.errors import InvalidRequest

T = TypeVar("T")
SWITCH = {"true": True, "false": False}


@dataclasses.dataclass(frozen=True)
class Knob:
    """The meaning, limits and defaults of a field."""

    help: str
    ge: float | None = None  # the smallest value that is allowed
    le: float | None = None  # the largest one
    choices: tuple[str, ...] = ()  # the texts that are allowed, if not all are
    with_start: Any = None  # another default, for training that begins from trained weights
    shown: str = ""  # the default in words, if the field's own default is None
    weight: float | None = None  # of shares: the number of a name that is given without one; None if each needs one
    read: Callable[[Path], dict[str, float]] | None = None  # of shares: reads the file that @FILE names
    off: tuple[str, str] | None = None  # of a switch that is on by default: the flag that turns it off, and its help
    name: str = ""  # the field's
    kind: Any = str  # the field's type: int, float, bool, str, Path; tuple for texts, Mapping for shares by name
    default: Any = None

    @property
    def default_text(self) -> str:
        """The default as --help shows it."""
        text = self.shown or _shown(self.default)
        return text if self.with_start is None else f"{text}; with --start {_shown(self.with_start)}"

    @property
    def allowed(self) -> str:
        """What the value must be, in words that follow "must be"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        plain = {int: "an integer", float: "a number", bool: "true or false", Path: "a path", str: "a text"}
        if self.kind is tuple:
            return "texts separated by commas"
        if self.kind is Mapping:
            return f"names with numbers of 0 or more, as in {'cat:2,dog' if self.weight else 'single:0.6,pair:0.4'}"
        return plain[self.kind] + _range(self.ge, self.le)


def knob(meaning: str, **more: Any) -> dict[str, Any]:
    """The metadata of a field that is a knob. meaning: its help. more: further fields of `Knob`."""
    return {"knob": Knob(meaning, **more)}


def share(meaning: str, **more: Any) -> dict[str, Any]:
    """The metadata of a knob that is a number from 0 to 1, as shares and chances are."""
    return knob(meaning, ge=0, le=1, **more)


def group(with_start: Mapping[str, Any] | None = None, **defaults: Any) -> dict[str, Any]:
    """The metadata of a field that holds another dataclass of knobs.

    defaults: those of its knobs that are to differ here. with_start: the same for their `with_start`.
    """
    return {"defaults": defaults, "with_start": dict(with_start or {})}


def knobs(options: type) -> dict[str, Knob]:
    """Every knob of a dataclass and of its groups, by name, in the order of the fields."""
    found: dict[str, Knob] = {}
    hints = get_type_hints(options)
    for field in dataclasses.fields(options):
        if "defaults" in field.metadata:
            changed, started = field.metadata["defaults"], field.metadata["with_start"]
            for name, inner in knobs(hints[field.name]).items():
                default = changed.get(name, inner.default)
                with_start = started.get(name, None if name in changed else inner.with_start)
                shown = "" if name in changed else inner.shown
                found[name] = dataclasses.replace(inner, default=default, with_start=with_start, shown=shown)
        elif "knob" in field.metadata:
            default = None if field.default is dataclasses.MISSING else field.default
            default = default if field.default_factory is dataclasses.MISSING else field.default_factory()
            kind = _kind(hints[field.name])
            found[field.name] = dataclasses.replace(field.metadata["knob"], name=field.name, kind=kind, default=default)
    return found


def build(options: type[T], given: Mapping[str, Any], going_on: bool = False, **others: Any) -> T:
    """The dataclass `options` with the knobs that are given. All other knobs have their defaults.

    going_on: whether training begins from trained weights. others: the fields that are not knobs. Raises
    InvalidRequest.
    """
    return _build(options, knobs(options), given, going_on, others)


def _build(
    options: type[T], known: Mapping[str, Knob], given: Mapping[str, Any], going_on: bool, others: Mapping[str, Any]
) -> T:
    values, hints = dict(others), get_type_hints(options)
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        if "defaults" in field.metadata:
            values[field.name] = _build(hints[field.name], known, given, going_on, {})
        elif "knob" in field.metadata:
            this = known[field.name]
            if this.name in given:
                values[field.name] = check(this, given[this.name])
            else:
                values[field.name] = this.with_start if going_on and this.with_start is not None else this.default
    return options(**values)


def parse(this: Knob, text: str) -> Any:
    """The value that `text` stands for. Raises InvalidRequest, and what `read` raises."""
    try:
        if this.kind is Mapping:
            value: Any = _shares(this, text)
        elif this.kind is tuple:
            value = tuple(part.strip() for part in text.split(",") if part.strip())
        elif this.kind is bool:
            value = SWITCH[text.lower()]
        else:
            value = this.kind(text)
    except (ValueError, KeyError):
        raise _refusal(this, text) from None
    return check(this, value, text)


def check(this: Knob, value: Any, text: str = "") -> Any:
    """The value itself. text: how the error shows it, if it was not given as a value. Raises InvalidRequest."""
    if this.kind in (int, float) and value is not None:
        too_small, too_big = this.ge is not None and value < this.ge, this.le is not None and value > this.le
        if too_small or too_big or not math.isfinite(value):
            raise _refusal(this, text or value)
    if this.choices and value not in this.choices:
        raise _refusal(this, text or value)
    return value


def parse_settings(texts: list[str], known: Mapping[str, Knob]) -> dict[str, Any]:
    """["ema=0.99", ...] -> values by name. known: every knob by name. Raises InvalidRequest."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidRequest("set", f"set must be NAME=VALUE, or help to see all names, got {text}")
        if name not in known:
            raise InvalidRequest("set", f"set must name a known knob, got {name}; {_nearest(name, known)}")
        if name in found:
            raise InvalidRequest(name, f"{name} must be set once, got {found[name]} and {value}")
        found[name] = parse(known[name], value)
    return found


def _nearest(name: str, known: Mapping[str, Knob]) -> str:
    (nearest,) = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"the nearest is {nearest}"


def _refusal(this: Knob, got: object) -> InvalidRequest:
    return InvalidRequest(this.name, f"{this.name} must be {this.allowed}, got {got}")


def _shares(this: Knob, text: str) -> dict[str, float]:
    """ "single:0.6,pair:0.4" -> shares by name. Raises ValueError."""
    found: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        if part.startswith("@") and this.read:
            found.update(this.read(Path(part[1:])))
            continue
        name, colon, number = part.rpartition(":")
        if not colon and this.weight is not None:
            name, number = part, str(this.weight)
        if not name or name in found or not 0 <= float(number) < math.inf:
            raise ValueError(part)
        found[name] = float(number)
    return found


def _kind(hint: Any) -> Any:
    """The type of a field, without None if the field may be None."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if NoneType in get_args(hint) else [hint]
    return get_origin(kinds[0]) or kinds[0]


def _range(ge: float | None, le: float | None) -> str:
    if ge is not None and le is not None:
        return f" from {_shown(ge)} to {_shown(le)}"
    if ge is not None:
        return f" of {_shown(ge)} or more"
    return f" of at most {_shown(le)}" if le is not None else ""


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None or value in ({}, (), "") else str(value)
