"""Helpers for tests of damaged checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.checkpoints import load
from model.errors import CheckpointError


def refusal(path: Path, read: Callable[[Path], object] = load) -> str:
    """The line by which the checkpoint is refused."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 1000
    return line


def values_of(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((path / "config.json").read_text())
    return values


def put(values: dict[str, Any], section: str, name: str, value: object) -> dict[str, Any]:
    (values[section] if section else values)[name] = value
    return values


def holds(error: type[Exception], check: Callable[..., object], *arguments: object) -> bool:
    """False where the check raises that error."""
    try:
        check(*arguments)
    except error:
        return False
    return True
