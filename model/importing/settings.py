"""What --set KEY=VALUE says, read."""

from __future__ import annotations

from model.errors import CheckpointError
from model.limits import shown


def integer(key: str, value: str) -> int:
    """The number of a setting. Raises CheckpointError where it is none; its limits are those of the config's field."""
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise CheckpointError(f"--set {key} must be a number, got {shown(value)}")
    return int(value)
