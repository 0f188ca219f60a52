"""The cache of an ordinary decoder: one row of static buffers for each picture, allocated once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class CachedShape(Protocol):
    """The fields of a transformer's config that its cache is made by."""

    @property
    def depth(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def capacity(self) -> int: ...


class Cache:
    """State of `slots` sequences. All tensors are on one device and never re-allocated.

    keys, values: (layers, slots, heads, capacity, head_dim), of the layers that attend. length: (slots,) positions
    filled. step: (slots,) image tokens fed. A family adds what else it keeps in `whole` and `states`.
    """

    def __init__(
        self, config: CachedShape, slots: int, device: torch.device, dtype: torch.dtype, layers: int | None = None
    ) -> None:
        """layers: that attend; None for all."""
        depth = config.depth if layers is None else layers
        shape = (depth, slots, config.heads, config.capacity, config.head_dim)
        self.capacity = config.capacity
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = torch.zeros(slots, device=device, dtype=torch.int64)
        self.step = torch.zeros(slots, device=device, dtype=torch.int64)

    @property
    def slots(self) -> int:
        """Rows of the cache."""
        return len(self.length)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        parts = (self.keys, self.values, *self.whole(), *self.states())
        return sum(t.numel() * t.element_size() for t in parts)

    def copy(self, source: int, targets: Tensor, length: int | None = None) -> None:
        """Make the slots `targets` (n,) equal to slot `source`. length: positions to copy; None copies all."""
        end = self.capacity if length is None else length
        for buffer in (self.keys, self.values):
            buffer[:, targets, :, :end] = buffer[:, source, None, :, :end].clone()
        for buffer in self.whole():
            buffer[:, targets] = buffer[:, source, None].clone()
        for state in self.states():
            state[targets] = state[source].clone()

    def clean(self, slots: Tensor | Sequence[int]) -> None:
        """Zero the slots (n,), which may hold NaN. Masking alone is not enough, because zero times NaN is NaN."""
        for buffer in (self.keys, self.values, *self.whole()):
            buffer[:, slots] = 0

    def whole(self) -> tuple[Tensor, ...]:
        """Buffers (parts, slots, ...) of which a copy takes a slot's whole."""
        return ()

    def states(self) -> tuple[Tensor, ...]:
        """What is not of a layer, (slots, ...)."""
        return self.length, self.step
