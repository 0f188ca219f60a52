"""The cache of ruDALL-E's decoder: one row of static buffers for each picture, allocated once."""

from __future__ import annotations

import torch
from torch import Tensor

from model.families.rudalle.config import RuDalleConfig


class Cache:
    """State of `slots` sequences. All tensors are on one device and never re-allocated.

    keys, values: (depth, slots, heads, capacity, head_dim). length: (slots,) positions filled. step: (slots,) image
    tokens fed.
    """

    def __init__(self, config: RuDalleConfig, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.depth, slots, config.heads, config.capacity, config.head_dim)
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
        return sum(t.numel() * t.element_size() for t in (self.keys, self.values, self.length, self.step))

    def copy(self, source: int, targets: Tensor, length: int | None = None) -> None:
        """Make the slots `targets` (n,) equal to slot `source`. length: positions to copy; None copies all."""
        end = self.capacity if length is None else length
        for buffer in (self.keys, self.values):
            buffer[:, targets, :, :end] = buffer[:, source, None, :, :end].clone()
        for state in (self.length, self.step):
            state[targets] = state[source].clone()

    def clean(self, slots: Tensor) -> None:
        """Zero the slots (n,), which may hold NaN. Masking alone is not enough, because zero times NaN is NaN."""
        for buffer in (self.keys, self.values):
            buffer[:, slots] = 0
