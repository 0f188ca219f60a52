"""What a pydantic model allows, and what was wrong with a value, in words; made from the model's own JSON schema.

The fields of a request and the settings of the server are both told so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from itertools import islice
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

NOT_BLANK = r"\S"
SHOWN = 80  # characters of a refused value that a message repeats
FILES = frozenset({"image", "mask"})  # fields that are files


def describe(model: type[BaseModel], fault: ErrorDetails, name: str = "") -> str:
    """One line on one fault of a `model`. name: what the caller calls the field, where it is not the field's name."""
    field = str(fault["loc"][0]) if fault["loc"] else "body"
    name = name or field
    known = properties(model)
    if fault["type"] == "extra_forbidden":
        if field in FILES:
            return f"{name}: it must be a file of a multipart/form-data body"
        return f"{shorten(name)}: no such field; known are {', '.join(known)}"
    value = fault["input"]
    if fault["type"] == "missing":
        shown = "missing"
    elif fault["type"] == "string_too_long":
        shown = f"{len(value)} characters"
    elif fault["type"] == "string_unicode":
        shown = f"{shorten(value)} holds a lone surrogate"
    elif isinstance(value, str) and not value.strip():
        shown = "blank" if value else "empty"
    else:
        shown = shorten(value)
    return f"{name}: {shown}, and it must be {allowed(known.get(field, {}))}"


def shorten(value: Any) -> str:
    """`value` as JSON, of SHOWN characters at most, for a message or a log line.

    However long or deep it is, only its beginning is looked at; of a list or an object, whole strings.
    """
    value = value[: SHOWN + 1] if isinstance(value, str) else value
    try:
        text = "".join(islice(json.JSONEncoder().iterencode(value), SHOWN + 1))
    except (TypeError, ValueError):
        text = repr(value)
    if isinstance(value, str) and value.isidentifier():
        text = value
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def allowed(schema: Mapping[str, Any]) -> str:
    """What a JSON schema of a scalar allows, in words."""
    parts = [part for part in alternatives(schema) if part.get("type") != "null"]
    if not parts:
        return "left out: this server cannot honour it"
    part = parts[0]
    if "const" in part:
        return str(part["const"])
    if "enum" in part:
        return "one of " + ", ".join(map(str, part["enum"]))
    match part.get("type"):
        case "integer":
            return f"an integer{_range(part)}"
        case "number":
            return f"a number{_range(part)}"
        case "boolean":
            return "true or false"
        case _ if part.get("pattern", NOT_BLANK) != NOT_BLANK:
            return str(schema.get("description", "of another form"))
        case _:
            lengths = f" of {part.get('minLength', 0)} to {part['maxLength']} characters" if "maxLength" in part else ""
            return f"a text{lengths}, not blank" if "pattern" in part else f"a text{lengths}"


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


@cache
def properties(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of every field of a model, by the field's name."""
    found: dict[str, Any] = model.model_json_schema(by_alias=False)["properties"]
    return found
