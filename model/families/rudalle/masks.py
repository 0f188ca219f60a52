"""Which earlier cells of the picture a cell attends to, for each kind of layer.

A cell is a position behind the first `max_ids` ones. In v2, which has one more text position, the last id of the text
is therefore cell 0, and image token i is cell i + 1: the masks were made without that position. All cells see the whole
text in front of cell 0. Source: rudalle/dalle/image_attention.py of rudalle 1.1.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.families.rudalle.config import COLUMN, CONV, ROW, V2

REACH = 5  # cells from the middle of the convolution's window of 11 x 11 to its edge


def sees(kind: str, grid: int, version: str) -> Tensor:
    """(grid * grid, grid * grid) bool: whether a cell, a row here, attends to another. It attends to itself."""
    cell = torch.arange(grid * grid)
    query, key = cell[:, None], cell[None, :]
    back = query - key  # how many cells earlier the other one is
    if kind == ROW:
        return (back >= 0) & (back <= grid)
    if kind == COLUMN:
        return (back >= 0) & (back % grid == 0)
    if kind != CONV:
        raise ValueError(f"kind must be {ROW}, {COLUMN} or {CONV}, got {kind}")
    near = back >= 0
    for distance in (query // grid - key // grid, query % grid - key % grid):
        if version == V2:
            around = distance % grid
            near &= (around <= REACH) | (around >= grid - REACH)
        else:
            near &= distance.abs() <= REACH
    return near


def neighbours(seen: Tensor) -> tuple[Tensor, Tensor]:
    """`sees` as lists. Returns index (cells, m) int64, the cells seen, and exists (cells, m) bool.

    m is the most that any cell sees. Where exists is False the list of a cell has ended, and index is 0.
    """
    most = int(seen.sum(1).max())
    found = seen.to(torch.uint8).sort(dim=1, descending=True, stable=True)
    exists = found.values[:, :most] > 0
    return torch.where(exists, found.indices[:, :most], 0), exists


def mask(seen: Tensor, text: int) -> Tensor:
    """Where each position may look, (n, n) bool, n = text + cells; text: positions in front of cell 0."""
    n = text + len(seen)
    allowed = torch.ones(n, n, dtype=torch.bool).tril()
    allowed[text:, text:] = seen
    return allowed
