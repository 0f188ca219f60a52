"""The local network: draws the image tokens of one group one after another, from what the body says of the group.

A token depends most on its neighbours to the left and above. The local network sees these directly, as a causal
convolution over code embeddings (PixelCNN, 1606.05328), and what the body says for the token's place in the group; the
body is left to look after the picture as a whole. Input and output share one table of codes (1608.05859).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import TransformerConfig
from model.transformer.linear import Linear, PackedProduct, pack, product

LEFT = 3  # neighbours seen to the left, in raster order within the row
ABOVE = 2  # neighbours seen above: this many to either side of the one straight above


class CodeTable(nn.Module):
    """One vector a code: a part of its own, and a part for each of its FSQ levels, shared with that level's codes."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.levels = config.code_levels
        self.own = nn.Parameter(torch.randn(config.image_vocab, config.code_dim) * 0.02)
        self.shared = nn.ParameterList(torch.randn(count, config.code_dim) * 0.02 for count in self.levels)
        self._kept: tuple[tuple[int, ...], Tensor] | None = None

    def digits(self) -> list[Tensor]:
        """For each FSQ dimension the level of every code, (codes,) int64."""
        ids = torch.arange(self.own.shape[0], device=self.own.device)
        return [(ids // math.prod(self.levels[:i])) % count for i, count in enumerate(self.levels)]

    def forward(self) -> Tensor:
        """(codes, code_dim); kept between calls where no gradient is asked for and no parameter has changed."""
        if torch.is_grad_enabled() or torch.is_inference(self.own):
            return self._sum()
        key = tuple(x for p in self.parameters() for x in (id(p), p._version))
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, self._sum())
        return self._kept[1]

    def _sum(self) -> Tensor:
        table: Tensor = self.own
        for part, digit in zip(self.shared, self.digits(), strict=True):
            table = table + part[digit]
        return table


class LocalBlock(nn.Module):
    """x + w2 relu(w1 norm(x))^2 (squared ReLU: 2109.08668); starts as the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, bias=False)
        self.w1 = Linear(dim, 2 * dim, bias=False)
        self.w2 = Linear(2 * dim, dim, bias=False)
        nn.init.zeros_(self.w2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.w2(F.relu(self.w1(self.norm(x))).square())


class Local(nn.Module):
    """From the body's output and the neighbours' codes to logits over the codes."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        neighbours = LEFT + 2 * ABOVE + 1
        self.codes = CodeTable(config)
        self.from_body = Linear(config.dim, config.group * config.local_dim, bias=False)
        self.from_left = Linear(LEFT * config.code_dim, config.local_dim, bias=False)
        self.from_above = Linear((neighbours - LEFT) * config.code_dim, config.local_dim, bias=False)
        self.blocks = nn.ModuleList(LocalBlock(config.local_dim) for _ in range(config.local_depth))
        self.norm = nn.LayerNorm(config.local_dim, eps=1e-6, bias=False)
        self.to_code = Linear(config.local_dim, config.code_dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.image_vocab))
        self._packed: PackedProduct | None = None

    def pack(self) -> None:
        """Pack the table of codes for `logits`; see `linear`."""
        with torch.no_grad():
            table = self.codes()
        self._packed = pack(table, self.bias)

    def neighbours(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Code vectors of a whole grid (b, grid, grid, code_dim) -> those to the left and above of every cell.

        (b, grid, grid, LEFT * code_dim), the nearest last; (b, grid, grid, (2 * ABOVE + 1) * code_dim), left to right.
        Cells outside the grid are zeros.
        """
        left_padded = F.pad(embedded, (0, 0, LEFT, 0))  # columns
        columns = embedded.shape[2]
        left = torch.cat([left_padded[:, :, i : i + columns] for i in range(LEFT)], dim=-1)
        above_padded = F.pad(embedded, (0, 0, ABOVE, ABOVE, 1, 0))[:, :-1]  # one row down
        above = torch.cat([above_padded[:, :, i : i + columns] for i in range(2 * ABOVE + 1)], dim=-1)
        return left, above

    def refine(self, x: Tensor) -> Tensor:
        """(..., local_dim) -> (..., code_dim): what is compared with the table of codes."""
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.to_code(self.norm(x))
        return out

    def logits(self, x: Tensor) -> Tensor:
        """(..., local_dim) -> (..., image_vocab) float32."""
        return product(self.refine(x), self.codes(), self.bias, self._packed).float()
