"""Finite scalar quantisation (FSQ): Mentzer et al., 2309.15505. A codebook that cannot collapse, without a codebook.

Each of a few dimensions is squashed to a range of its own and rounded to one of `levels` values; the id of a code is
its number in the mixed radix of `levels`. Gradients pass the rounding unchanged (straight-through).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Constants(NamedTuple):
    """Per-dimension numbers of the grid, each (dims,)."""

    half: Tensor  # half the range, in levels
    offset: Tensor  # 0.5 where the number of levels is even
    shift: Tensor  # what z = 0 is moved by before the squashing
    levels: Tensor  # int64
    basis: Tensor  # int64, the mixed radix


class FSQ(nn.Module):
    """(..., dims) real -> (..., dims) in [-1, 1] on a grid of prod(levels) points, and back from ids."""

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.level_counts = tuple(levels)
        self._constants: dict[torch.device, Constants] = {}

    def constants(self, device: torch.device) -> Constants:
        """The grid's numbers on `device`. Kept out of the state dict: they follow from `levels`."""
        if device not in self._constants:
            count = torch.tensor(self.level_counts, dtype=torch.float32, device=device)
            half = (count - 1) * (1 + 1e-3) / 2  # slightly wider, so that the outermost level is reached
            offset = torch.where(count % 2 == 0, 0.5, 0.0)  # an even number of levels straddles zero
            basis = [math.prod(self.level_counts[:i]) for i in range(len(self.level_counts))]
            self._constants[device] = Constants(
                half=half,
                offset=offset,
                shift=torch.atanh(offset / half),
                levels=count.long(),
                basis=torch.tensor(basis, dtype=torch.int64, device=device),
            )
        return self._constants[device]

    def squash(self, z: Tensor) -> Tensor:
        """z (..., dims), any reals -> the same in (-1, 1), the outermost levels at the ends: what is rounded."""
        return torch.tanh(z + self.constants(z.device).shift)

    def forward(self, z: Tensor) -> Tensor:
        """Quantised z, same shape, values in [-1, 1]; the gradient is that of the squashing alone."""
        c = self.constants(z.device)
        bounded = self.squash(z) * c.half - c.offset  # (..., dims)
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / (c.levels // 2)

    def ids(self, quantised: Tensor) -> Tensor:
        """(..., dims) on the grid -> (...) int64 ids, 0 .. prod(levels) - 1."""
        c = self.constants(quantised.device)
        digits = (quantised * (c.levels // 2)).round().long() + c.levels // 2
        return (digits * c.basis).sum(-1)

    def codes(self, ids: Tensor) -> Tensor:
        """(...) ids -> (..., dims) float32 on the grid, values in [-1, 1]."""
        c = self.constants(ids.device)
        digits = (ids.unsqueeze(-1) // c.basis) % c.levels
        return (digits - c.levels // 2).float() / (c.levels // 2).float()
