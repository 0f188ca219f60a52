"""The cache of DALLE-pytorch's transformer: one row of static buffers for each picture, allocated once.

Layers that see a row, a column or a window of the picture read only those entries of it, see `Step`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.families import cache
from model.families.dalle_pytorch.config import MLP, DallePytorchConfig
from model.families.dalle_pytorch.neighbours import shares


class Cache(cache.Cache):
    """gates: (gated layers, slots, capacity, 2 dim).

    Of the token shift, for each part of a layer: above (2 depth, slots, grid, dim / 4), what the last token of each
    column hands down, and left (2 depth, slots, dim / 4), what the last token hands to the right.
    """

    def __init__(self, config: DallePytorchConfig, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        gated = config.attention.count(MLP)
        super().__init__(config, slots, device, dtype, layers=config.depth - gated)
        parts, quarter = 2 * config.depth if config.shift else 0, shares(config.dim)[1]
        self.gates = torch.zeros(gated, slots, config.capacity, 2 * config.dim, device=device, dtype=dtype)
        self.above = torch.zeros(parts, slots, config.grid, quarter, device=device, dtype=dtype)
        self.left = torch.zeros(parts, slots, quarter, device=device, dtype=dtype)

    def whole(self) -> tuple[Tensor, ...]:
        return self.gates, self.above, self.left
