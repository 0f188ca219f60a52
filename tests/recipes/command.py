"""What a command of the recipe left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """Exit status, stdout and stderr."""

    status: int
    out: str
    err: str


Run = Callable[..., Result]
