"""Reads a file of prompts: a text for each line of a .txt, or a JSON object for each line of a .jsonl.

    {"text": "a red apple", "count": 4, "seed": 1, "style": "3d"}

Every line is checked before anything is painted. An error names the file and the line.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from app.http.schemas import MAX_SAMPLES, Sampling, Text, read
from model.errors import CheckpointError, DalleError, DataError, InvalidRequest
from model.files import parse_json, read_file
from model.limits import shown

SUFFIXES = (".txt", ".jsonl")
FILE_BYTES = 1 << 28
MAX_COUNT = 1000  # pictures of a line; a job has no more


class LineFields(Sampling):
    """What a line of a .jsonl may hold."""

    model_config = ConfigDict(title="line")

    text: Text
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    num_images: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None


@dataclass(frozen=True)
class Line:
    """A line that was read. where: names the file and the line. number: of the line, from 1. count: its pictures.

    fields: how they are painted. The seed is None if neither the line nor a flag tells it.
    copy: how many earlier lines are the same but for their count.
    """

    where: str
    number: int
    fields: Sampling
    text: str
    count: int
    copy: int = 0

    def identity(self, model: str) -> str:
        """Names what this line paints with a model, in this file and in a changed one: 32 hexadecimal digits."""
        asked = {**self.fields.model_dump(exclude_none=True), "text": self.text, "copy": self.copy, "by": model}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]

    def fault(self, error: DalleError | str) -> DataError:
        """The same error, which also names the file and the line."""
        return DataError(f"{self.where}: {error}")


def read_lines(path: Path, defaults: Mapping[str, Any]) -> list[Line]:
    """The lines of a file that are not blank. defaults: fields for lines that do not tell them.

    Raises InvalidRequest for a wrong default, and DataError, which names the line.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidRequest("prompts", f"--prompts must end in .txt or .jsonl, got {path}")
    given = {name: value for name, value in defaults.items() if value is not None}
    read(LineFields, {**given, "text": "a text"})
    found: list[Line] = []
    seen: Counter[str] = Counter()
    for number, data in enumerate(read_file(path, FILE_BYTES).removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not data.strip():
            continue
        where = f"{path}, line {number}"
        try:
            line = _line(where, number, _values(data, path.suffix.lower()), given)
        except DataError:
            raise
        except DalleError as error:
            raise DataError(f"{where}: {error}") from None
        same = line.identity("")
        found.append(Line(where, number, line.fields, line.text, line.count, seen[same]))
        seen[same] += 1
    if not found:
        raise DataError(f"{path} must hold a prompt, got none")
    return found


def _values(data: bytes, suffix: str) -> dict[str, Any]:
    """The fields that a line tells. Raises DalleError."""
    if suffix == ".txt":
        try:
            return {"text": data.decode().strip()}
        except UnicodeDecodeError as error:
            raise DalleError(f"it must be UTF-8, got the byte 0x{data[error.start]:02x}") from None
    try:
        values = parse_json(data, "")
    except CheckpointError as error:
        raise DalleError(str(error).removeprefix(": ")) from None
    if not isinstance(values, dict):
        raise DalleError(f"it must be a JSON object, got {shown(values)}")
    return values


def _line(where: str, number: int, values: Mapping[str, Any], given: Mapping[str, Any]) -> Line:
    """The line with these fields. Raises InvalidRequest."""
    told = {name: value for name, value in values.items() if value is not None}
    if "count" in told and "num_images" in told:
        raise InvalidRequest("count", "count or num_images must be given, got both")
    counted = {"count", "num_images"} & told.keys()
    merged = {name: value for name, value in given.items() if not (counted and name == "count")} | told
    fields = read(LineFields, merged)
    if fields.embed_prompt is False:
        raise InvalidRequest("embed_prompt", "embed_prompt must be true or left out: these files tell their text")
    count = fields.count or fields.num_images or 1
    if fields.best_of is not None and fields.best_of < count:
        allowed = f"from {count}, the pictures that are kept, to {MAX_SAMPLES}"
        raise InvalidRequest("best_of", f"best_of must be {allowed}, got {fields.best_of}")
    sampling = {name: getattr(fields, name) for name in Sampling.model_fields if name != "embed_prompt"}
    return Line(where, number, Sampling(**sampling), fields.text, count)
