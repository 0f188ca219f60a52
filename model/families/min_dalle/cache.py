"""The cache of min-dalle's decoder: one row of static buffers for each picture, allocated once."""

from __future__ import annotations

import torch
from torch import Tensor

from model.families.min_dalle.config import MinDalleConfig


class Cache:
    """State of `slots` sequences. All tensors are on one device and never re-allocated.

    keys, values: (depth, slots, heads, capacity, head_dim), of the start token and the image tokens.
    text_keys, text_values: (depth, slots, heads, max_ids, head_dim), of the encoded text, for the cross-attention.
    text_exists: (slots, max_ids) bool, where the text is no padding. length: (slots,) positions filled. step: (slots,)
    image tokens fed.
    """

    def __init__(self, config: MinDalleConfig, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        of_image = (config.depth, slots, config.heads, config.capacity, config.head_dim)
        of_text = (config.depth, slots, config.heads, config.max_ids, config.head_dim)
        self.capacity = config.capacity
        self.keys = torch.zeros(of_image, device=device, dtype=dtype)
        self.values = torch.zeros(of_image, device=device, dtype=dtype)
        self.text_keys = torch.zeros(of_text, device=device, dtype=dtype)
        self.text_values = torch.zeros(of_text, device=device, dtype=dtype)
        self.text_exists = torch.zeros(slots, config.max_ids, device=device, dtype=torch.bool)
        self.length = torch.zeros(slots, device=device, dtype=torch.int64)
        self.step = torch.zeros(slots, device=device, dtype=torch.int64)

    @property
    def slots(self) -> int:
        """Rows of the cache."""
        return len(self.length)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(t.numel() * t.element_size() for t in (*self._buffers(), *self._states()))

    def copy(self, source: int, targets: Tensor, length: int | None = None) -> None:
        """Make the slots `targets` (n,) equal to slot `source`. length: positions to copy; None copies all."""
        end = self.capacity if length is None else length
        for buffer in (self.keys, self.values):
            buffer[:, targets, :, :end] = buffer[:, source, None, :, :end].clone()
        for buffer in (self.text_keys, self.text_values):
            buffer[:, targets] = buffer[:, source, None].clone()
        for state in self._states():
            state[targets] = state[source].clone()

    def clean(self, slots: Tensor) -> None:
        """Zero the slots (n,), which may hold NaN. Masking alone is not enough, because zero times NaN is NaN."""
        for buffer in self._buffers():
            buffer[:, slots] = 0

    def _buffers(self) -> tuple[Tensor, ...]:
        return self.keys, self.values, self.text_keys, self.text_values

    def _states(self) -> tuple[Tensor, ...]:
        return self.text_exists, self.length, self.step
