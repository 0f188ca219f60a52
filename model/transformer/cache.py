"""The KV cache: one row of a static buffer a picture, allocated once. Every sequence of a model ends at the same length,
so there are no pages and no preemption."""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import TransformerConfig


class KVCache:
    """State of `slots` sequences. All tensors are on one device and never re-allocated.

    k, v: (depth, slots, kv_heads, capacity, head_dim). length: (slots,) positions filled. step: (slots,) image groups
    fed. text: (slots,) text positions. tokens: (slots, image_tokens) image tokens fed. caption: (slots, dim).
    """

    def __init__(self, config: TransformerConfig, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.depth, slots, config.kv_heads, config.capacity, config.head_dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.length = torch.zeros(slots, device=device, dtype=torch.int64)
        self.step = torch.zeros(slots, device=device, dtype=torch.int64)
        self.tokens = torch.zeros(slots, config.image_tokens, device=device, dtype=torch.int64)
        self.caption = torch.zeros(slots, config.dim, device=device, dtype=dtype)

    @property
    def slots(self) -> int:
        """Rows of the cache."""
        return self.k.shape[1]

    @property
    def capacity(self) -> int:
        """Positions of a row."""
        return self.k.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(t.numel() * t.element_size() for t in (self.k, self.v, self.length, self.step, self.tokens, self.caption))

    def copy(self, source: int, targets: Tensor, length: int | None = None) -> None:
        """Make the slots `targets` (n,) equal to slot `source`. length: positions to copy; all of them when not given."""
        end = self.capacity if length is None else length
        for buffer in (self.k, self.v):
            buffer[:, targets, :, :end] = buffer[:, source, None, :, :end].clone()
        for state in (self.length, self.step, self.tokens, self.caption):
            state[targets] = state[source].clone()
