"""Numbers of a transformer that its tensors tell, or that --set must: the same questions in every family."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from model.errors import CheckpointError
from model.importing.state import Keys
from model.limits import shown

MAX_LAYERS = 256


def matrix(keys: Keys, key: str) -> tuple[int, int]:
    """Rows and columns of a tensor, which stays. Raises CheckpointError where it is missing or is no matrix."""
    shape = keys.shape(key)
    if len(shape) != 2:
        raise CheckpointError(f"{keys.where}: {keys.name(key)} must have two dimensions, got {shape}")
    return shape[0], shape[1]


def square_side(keys: Keys, key: str) -> int:
    """Image tokens a side, by a table that has a row for each token of a square. Raises CheckpointError."""
    tokens, _ = matrix(keys, key)
    side = math.isqrt(tokens)
    if side * side != tokens:
        message = f"{keys.name(key)} must have a row for each token of a square, got {tokens}"
        raise CheckpointError(f"{keys.where}: {message}")
    return side


def depth(keys: Keys, prefix: str) -> int:
    """Layers, by the numbers after `prefix` in the keys: one more than the highest.

    A gap is found where its keys are taken. Raises CheckpointError for more than MAX_LAYERS.
    """
    pattern = re.compile(re.escape(prefix) + r"(\d{1,9})\.")
    numbers = [int(found[1]) for key in keys.names(prefix) if (found := pattern.match(key))]
    layers = max(numbers, default=-1) + 1
    if layers > MAX_LAYERS:
        raise CheckpointError(f"{keys.where}: layers must be at most {MAX_LAYERS}, got {layers}")
    return layers


def heads(keys: Keys, dim: int, known: Mapping[int, int], said: str | None) -> int:
    """Heads of a model of this width. known: of the published models, by width. said: what --set heads says.

    Raises CheckpointError where nobody says them.
    """
    if said is not None:
        return integer("heads", said)
    if dim not in known:
        listed = ", ".join(f"{count} at width {width}" for width, count in known.items())
        message = f"the heads of a model {dim} wide must be said by --set heads=N; known are {listed}"
        raise CheckpointError(f"{keys.where}: {message}")
    return known[dim]


def integer(key: str, value: str) -> int:
    """The number of a setting. Raises CheckpointError where it is none; its limits are those of the config's field."""
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise CheckpointError(f"--set {key} must be a number, got {shown(value)}")
    return int(value)
