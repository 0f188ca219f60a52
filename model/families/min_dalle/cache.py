"""The cache of min-dalle's decoder: one row of static buffers for each picture, allocated once."""

from __future__ import annotations

import torch
from torch import Tensor

from model.families import cache
from model.families.min_dalle.config import MinDalleConfig


class Cache(cache.Cache):
    """keys, values: of the start token and the image tokens.

    text_keys, text_values: (depth, slots, heads, max_ids, head_dim), of the encoded text, for the cross-attention.
    text_exists: (slots, max_ids) bool, where the text is no padding.
    """

    def __init__(self, config: MinDalleConfig, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(config, slots, device, dtype)
        of_text = (config.depth, slots, config.heads, config.max_ids, config.head_dim)
        self.text_keys = torch.zeros(of_text, device=device, dtype=dtype)
        self.text_values = torch.zeros(of_text, device=device, dtype=dtype)
        self.text_exists = torch.zeros(slots, config.max_ids, device=device, dtype=torch.bool)

    def whole(self) -> tuple[Tensor, ...]:
        return self.text_keys, self.text_values

    def states(self) -> tuple[Tensor, ...]:
        return self.text_exists, self.length, self.step
