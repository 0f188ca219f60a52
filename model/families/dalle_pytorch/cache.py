"""The cache of DALLE-pytorch's transformer: one row of static buffers for each picture, allocated once.

Layers that see a row, a column or a window of the picture read only those entries of it, see `Step`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from model.families.dalle_pytorch.config import MLP, DallePytorchConfig
from model.families.dalle_pytorch.neighbours import shares


class Cache:
    """State of `slots` sequences. All tensors are on one device and never re-allocated.

    keys, values: (layers that attend, slots, heads, capacity, head_dim). gates: (gated layers, slots, capacity,
    2 dim). Of the token shift, for each part of a layer: above (2 depth, slots, grid, dim / 4), what the last token of
    each column hands down, and left (2 depth, slots, dim / 4), what the last token hands to the right.
    length: (slots,) positions filled. step: (slots,) image tokens fed.
    """

    def __init__(self, config: DallePytorchConfig, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        gated = config.attention.count(MLP)
        attends = (config.depth - gated, slots, config.heads, config.capacity, config.head_dim)
        parts, quarter = 2 * config.depth if config.shift else 0, shares(config.dim)[1]
        self.capacity = config.capacity
        self.keys = torch.zeros(attends, device=device, dtype=dtype)
        self.values = torch.zeros(attends, device=device, dtype=dtype)
        self.gates = torch.zeros(gated, slots, config.capacity, 2 * config.dim, device=device, dtype=dtype)
        self.above = torch.zeros(parts, slots, config.grid, quarter, device=device, dtype=dtype)
        self.left = torch.zeros(parts, slots, quarter, device=device, dtype=dtype)
        self.length = torch.zeros(slots, device=device, dtype=torch.int64)
        self.step = torch.zeros(slots, device=device, dtype=torch.int64)

    @property
    def slots(self) -> int:
        """Rows of the cache."""
        return len(self.length)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(t.numel() * t.element_size() for t in (*self._buffers(), self.length, self.step))

    def copy(self, source: int, targets: Tensor, length: int | None = None) -> None:
        """Make the slots `targets` (n,) equal to slot `source`. length: positions to copy; None copies all."""
        end = self.capacity if length is None else length
        for buffer in (self.keys, self.values):
            buffer[:, targets, :, :end] = buffer[:, source, None, :, :end].clone()
        self.gates[:, targets, :end] = self.gates[:, source, None, :end].clone()
        for buffer in (self.above, self.left):
            buffer[:, targets] = buffer[:, source, None].clone()
        for state in (self.length, self.step):
            state[targets] = state[source].clone()

    def clean(self, slots: Iterable[int]) -> None:
        """Zero the slots that may hold NaN. Masking alone is not enough, because zero times NaN is NaN."""
        for slot in slots:
            for buffer in self._buffers():
                buffer[:, slot] = 0

    def _buffers(self) -> tuple[Tensor, ...]:
        return self.keys, self.values, self.gates, self.above, self.left
