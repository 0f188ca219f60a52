"""A foreign state dict that is used up key by key, so that nothing in it is dropped in silence.

    keys = Keys(state_dict(content["weights"], where), where)
    ours["norm.weight"] = keys.take("to_logits.0.weight", (512,))
    keys.drop("vae.model.loss.")  # a documented exception
    keys.finish()  # names the first key that nobody took

Every refusal is a CheckpointError in one line that names the file and the key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from model.errors import CheckpointError
from model.limits import shown

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LARGEST = torch.finfo(torch.float32).max  # that is finite in a checkpoint; float64 has larger ones
MAX_KEYS = 200_000  # of a state dict


def state_dict(found: Any, where: str) -> dict[str, Tensor]:
    """The tensors by key. where: names the file, and the place in it. Raises CheckpointError where it is none."""
    if not isinstance(found, dict):
        raise CheckpointError(f"{where} must be a state dict of tensors, got {kind(found)}")
    if len(found) > MAX_KEYS:
        raise CheckpointError(f"{where} must have at most {MAX_KEYS:,} tensors, got {len(found):,}")
    for key, value in found.items():
        if not isinstance(key, str) or not key.isprintable() or not 1 <= len(key) <= 300:
            raise CheckpointError(f"{where}: a key must be a name, got {shown(key)}")
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{where}: {shown(key)} must be a tensor, got {kind(value)}")
    return found


def kind(value: Any) -> str:
    """What a value is, in words that never walk into it."""
    if value is None or isinstance(value, bool | int | float | str):
        return shown(value)
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {dtype_name(value)}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    return str(value)[:120]


def dtype_name(tensor: Tensor) -> str:
    """ "float32", "int64" ..."""
    return str(tensor.dtype).removeprefix("torch.")


class Keys:
    """A state dict, used up. where: names the file."""

    def __init__(self, state: Mapping[str, Tensor], where: str) -> None:
        self.where = where
        self._left = dict(state)

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def names(self, prefix: str = "") -> list[str]:
        """The keys that are left and begin so, in their order."""
        return [key for key in self._left if key.startswith(prefix)]

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor, which stays. Raises CheckpointError where it is missing."""
        return tuple(self._found(key).shape)

    def peek(self, key: str) -> Tensor:
        """A tensor, which stays. Raises CheckpointError where it is missing."""
        return self._found(key)

    def take(self, key: str, shape: Sequence[int] | None = None) -> Tensor:
        """A tensor of weights, which is gone then. shape: what it must have; None takes any.

        Raises CheckpointError where it is missing, of another shape, of no floating type, or not finite.
        """
        tensor = self._found(key)
        if shape is not None and tuple(tensor.shape) != tuple(shape):
            told = f"{tuple(shape)}, got {tuple(tensor.shape)}"
            raise CheckpointError(f"{self.where}: {shown(key)} must have the shape {told}")
        check_weights(tensor, key, self.where)
        del self._left[key]
        return tensor

    def take_buffer(self, key: str) -> Tensor:
        """A tensor of any type and content, which is gone then. Raises CheckpointError where it is missing."""
        tensor = self._found(key)
        del self._left[key]
        return tensor

    def drop(self, prefix: str) -> int:
        """Leave out what begins so, as the documentation says. Returns how many tensors that were."""
        gone = self.names(prefix)
        for key in gone:
            del self._left[key]
        return len(gone)

    def part(self, prefix: str) -> Keys:
        """The keys that begin so, without the prefix, as Keys of their own; here they are gone.

        Its refusals name the whole key.
        """
        inside = _Part(
            self.where, self.name(prefix), {key.removeprefix(prefix): self._left[key] for key in self.names(prefix)}
        )
        self.drop(prefix)
        return inside

    def name(self, key: str) -> str:
        """The key as the file has it."""
        return key

    def finish(self) -> None:
        """Raises CheckpointError naming the first key that is left."""
        if self._left:
            more = f", and {len(self._left) - 1} more" if len(self._left) > 1 else ""
            first = shown(self.name(next(iter(self._left))))
            raise CheckpointError(f"{self.where}: {first} belongs to nothing in this model{more}")

    def _found(self, key: str) -> Tensor:
        if key not in self._left:
            raise CheckpointError(f"{self.where}: the key {shown(self.name(key))} is missing")
        return self._left[key]


class _Part(Keys):
    def __init__(self, where: str, prefix: str, state: Mapping[str, Tensor]) -> None:
        super().__init__(state, where)
        self._prefix = prefix

    def name(self, key: str) -> str:
        return self._prefix + key

    def take(self, key: str, shape: Sequence[int] | None = None) -> Tensor:
        tensor = self._found(key)
        whole = Keys({self.name(key): tensor}, self.where)
        whole.take(self.name(key), shape)
        return self.take_buffer(key)


def check_weights(tensor: Tensor, key: str, where: str) -> None:
    """Raises CheckpointError for a tensor that is of no floating type, or not finite. Reads all of it."""
    if tensor.dtype not in FLOATS:
        raise CheckpointError(f"{where}: {shown(key)} must be of a floating type, got {dtype_name(tensor)}")
    if tensor.numel():
        low, high = (float(end) for end in torch.aminmax(tensor))  # a NaN anywhere makes both NaN
        if math.isnan(low):
            raise CheckpointError(f"{where}: {shown(key)} must be finite numbers, got NaN")
        if max(-low, high) > LARGEST:
            raise CheckpointError(f"{where}: {shown(key)} must be finite numbers of float32, got {low} to {high}")
