"""Settings that hold several values, separated by commas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from model.files import find

# Patterns of an origin and of a host's name, in a list.
ORIGIN = r"(\*|null|[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?/?)"
NAME = r"(\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?)"


def list_of(item: str) -> str:
    """The pattern of a list of such items, separated by commas."""
    return rf"(?i)^\s*({item}(\s*,\s*{item})*)?\s*$"


def split(value: object) -> object:
    """The items of a list with commas, or of several such lists. The path of a folder that exists is one item."""
    lists = value if isinstance(value, list | tuple) else (value,)
    items: list[str] = []
    for one in lists:
        if isinstance(one, Path) or (isinstance(one, str) and find(Path(one).expanduser()).is_dir()):
            items.append(str(one))
        elif isinstance(one, str):
            items += items_of(one)
        else:
            return value
    return tuple(items)


Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)]


def items_of(listed: str) -> tuple[str, ...]:
    """The items of a list with commas, without blanks and empty ones."""
    return tuple(filter(None, map(str.strip, listed.split(","))))
