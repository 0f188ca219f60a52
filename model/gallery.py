"""The gallery of a checkpoint: gallery.webp, a sheet of its own pictures, and gallery.json, which says what is on it.

A checkpoint may have both files, or none. Knows no tensors and no pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Interval, Len

from model.errors import CheckpointError
from model.files import parse_json
from model.limits import build, shown

GALLERY, SHEET = "gallery.json", "gallery.webp"
GALLERY_BYTES, SHEET_BYTES = 2**16, 300_000  # of the files
Text = Annotated[str, Len(1, 200)]


@dataclass(frozen=True)
class Example:
    """One picture. text: the prompt that it was painted from. kind: the heading under which it is shown."""

    text: Text
    kind: Text


@dataclass(frozen=True)
class Gallery:
    """pictures: in the order of the sheet, row by row. columns: squares in a row of the sheet. sheet: the file."""

    columns: int
    pictures: tuple[Example, ...]
    sheet: bytes = b""


@dataclass(frozen=True)
class _Layout:
    columns: Annotated[int, Interval(ge=1, le=64)]


def parse(data: bytes, where: str = GALLERY, sheet: bytes = b"") -> Gallery:
    """The gallery in the bytes of a gallery.json: {"columns": 4, "pictures": [{"text", "kind"}, ...]}.

    Raises CheckpointError naming the file and the key.
    """
    values: Any = parse_json(data, where)
    if not isinstance(values, dict) or not isinstance(pictures := values.pop("pictures", None), list):
        raise CheckpointError(f"{where} must be an object with a list of pictures, got {shown(values)}")
    layout = build(_Layout, values, where)
    examples = (build(Example, value, where, f"pictures[{i}]") for i, value in enumerate(pictures))
    return Gallery(layout.columns, tuple(examples), sheet)
