"""Says in words what a pydantic model allows and what is wrong with a value. The words come from its JSON schema.

The fields of a request and the settings of the server use the same words: "num_images must be an integer from 1 to 10,
got 11".
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import islice
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

NOT_BLANK = r"\S"
SHOWN = 80  # characters of a refused value that a message repeats
PLAIN = re.compile(r"[\w./:+*%@-]+")  # strings that need no quotes
MAX_NAME = 40  # characters; for a longer unknown name no known one is looked for, because the search is slow
NEAR = 0.7  # similarity, 0 to 1; a known name is suggested for an unknown one from this on
FILES = frozenset({"image", "mask"})  # fields that hold files


def describe(model: type[BaseModel], fault: ErrorDetails, setting: str = "") -> str:
    """One line about one fault of a `model`. setting: the variable or flag that gave the value as a string."""
    loc = fault["loc"]
    name = setting or path(loc)
    schema = _schema(model, loc)
    if fault["type"] == "extra_forbidden":
        if name in FILES:
            return f"{name} must be a file in a multipart/form-data body"
        near = nearest(str(loc[-1]), _properties(model, _schema(model, loc[:-1])))
        hint = f"did you mean {path((*loc[:-1], near))}?" if near else "/docs lists the fields"
        return f"{shorten(name)} is not a field of this request; {hint}"
    if fault["type"] == "missing":
        return f"{name} is missing; it must be {allowed(schema)}"
    value = fault["input"]
    if fault["type"] == "string_too_long":
        got = f"{len(value)} characters"
    elif fault["type"] == "string_unicode":
        got = f"{shorten(value)}, which holds a lone surrogate"
    elif isinstance(value, str) and not value.strip():
        got = "blank" if value else "empty"
    else:  # a string in the place of a number shows its quotes, since they are what is wrong with it
        got = shorten(value, quoted=not setting and not _takes_strings(schema))
    return f"{name} must be {allowed(schema)}, got {got}"


def path(loc: Sequence[int | str]) -> str:
    """The name of a field as a message says it: "seed", "prompts[2]", "webhook.url"."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc]
    return "".join(parts).removeprefix(".") or "body"


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that is most like `name`, whether in upper or lower case. None if no name is similar."""
    if len(name) > MAX_NAME:
        return None
    return next(iter(get_close_matches(name.lower(), known, 1, NEAR)), None)


def shorten(value: Any, quoted: bool = False) -> str:
    """`value` as JSON, of SHOWN characters at most, for a message or a log line.

    A single word stands without quotes, unless `quoted`. Only the beginning of a long or deep value is read, but
    the strings of a list or an object are read whole.
    """
    value = value[: SHOWN + 1] if isinstance(value, str) else value
    try:
        text = "".join(islice(json.JSONEncoder().iterencode(value), SHOWN + 1))
    except (TypeError, ValueError):
        text = repr(value)
    if isinstance(value, str) and not quoted and PLAIN.fullmatch(value):
        text = value
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def allowed(schema: Mapping[str, Any]) -> str:
    """What a JSON schema of a scalar allows, in words that follow "must be"."""
    parts = [part for part in alternatives(schema) if part.get("type") != "null"]
    if not parts:
        return "left out"
    part = parts[0]
    if "const" in part:
        return str(part["const"])
    if "enum" in part:
        return "one of " + ", ".join(map(str, part["enum"]))
    if "$ref" in part:
        return str(schema.get("form", "an object"))
    match part.get("type"):
        case "integer":
            return f"an integer{_range(part)}"
        case "number":
            return f"a number{_range(part)}"
        case "boolean":
            return "true or false"
        case "array":
            return str(schema.get("form", "a list"))
        case _ if part.get("pattern", NOT_BLANK) != NOT_BLANK:
            return str(schema.get("form", "of another form"))
        case _:
            lengths = f" of {part.get('minLength', 0)} to {part['maxLength']} characters" if "maxLength" in part else ""
            return f"a text{lengths} that is not blank" if "pattern" in part else f"a text{lengths}"


def _schema(model: type[BaseModel], loc: Sequence[int | str]) -> Mapping[str, Any]:
    """The JSON schema of a field, also of one in a list or in another object. Empty for an unknown field."""
    found: Mapping[str, Any] = _whole(model)
    for step in loc:
        inner = (
            part.get("items") if isinstance(step, int) else _properties(model, part).get(step)
            for part in alternatives(found)
        )
        found = next((schema for schema in inner if schema), {})
    return found


def _properties(model: type[BaseModel], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schemas of the fields of an object, by name. schema: of the object, or one that refers to it."""
    for part in alternatives(schema):
        named = _whole(model).get("$defs", {}).get(part.get("$ref", "").rpartition("/")[2], part)
        if "properties" in named:
            return dict(named["properties"])
    return {}


def _takes_strings(schema: Mapping[str, Any]) -> bool:
    return any(part.get("type") == "string" for part in alternatives(schema))


def _range(part: Mapping[str, Any]) -> str:
    low, high = part.get("minimum"), part.get("maximum")
    if low is None and "exclusiveMinimum" in part:
        return f" above {part['exclusiveMinimum']}" + (f", up to {high}" if high is not None else "")
    if high is None and "exclusiveMaximum" in part:
        high = part["exclusiveMaximum"] - 1  # integers only
    if low is not None and high is None:
        return f" of {low} or more"
    return f" from {low} to {high}" if low is not None and high is not None else ""


def alternatives(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The JSON schemas of which one has to fit: those of `anyOf`, or the schema itself."""
    return list(schema.get("anyOf", [schema]))


def properties(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of every field of a model, by the field's name."""
    found: dict[str, Any] = _whole(model)["properties"]
    return found


@cache
def _whole(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema(by_alias=False)
