"""Which earlier image tokens a position of the picture attends to, for each kind of attention, and how tokens shift.

All kinds see the whole text. Source: dalle_pytorch/attention.py and transformer.py of DALLE-pytorch 0.12 to 1.6.6.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.families.dalle_pytorch.config import COLUMN, CONV, CONV_CENTRED, ROW

WINDOW = 5  # a side of the convolution's window


def neighbours(kind: str, grid: int) -> tuple[Tensor, Tensor]:
    """What each image token attends to in the picture, for every kind but "full" and "mlp".

    Returns index (grid * grid, m) int64, raster indices, and exists (grid * grid, m) bool: False where a window leaves
    the picture or a token comes later. m: `grid` for rows and columns, 25 and 15 for windows. A token sees itself.
    """
    token = torch.arange(grid * grid)
    row, column = token[:, None] // grid, token[:, None] % grid
    line = torch.arange(grid)
    if kind == ROW:
        rows, columns = row.expand(-1, grid), line.expand(len(token), -1)
    elif kind == COLUMN:
        rows, columns = line.expand(len(token), -1), column.expand(-1, grid)
    elif kind == CONV:
        back = torch.arange(1 - WINDOW, 1)
        rows, columns = row + back.repeat_interleave(WINDOW), column + back.repeat(WINDOW)
    elif kind == CONV_CENTRED:
        reach = WINDOW // 2
        rows = row + torch.arange(-reach, 1).repeat_interleave(WINDOW)
        columns = column + torch.arange(-reach, reach + 1).repeat(reach + 1)
    else:
        raise ValueError(f"kind must be one that sees a part of the picture, got {kind}")
    index = rows * grid + columns
    exists = (rows >= 0) & (columns >= 0) & (columns < grid) & (index <= token[:, None])
    return torch.where(exists, index, 0), exists


def mask(kind: str, grid: int, text: int) -> Tensor:
    """Where each position may look, (n, n) bool, with n = text + grid * grid; text: positions of the text."""
    positions = text + grid * grid
    allowed = torch.ones(positions, positions, dtype=torch.bool).tril()
    index, exists = neighbours(kind, grid)
    allowed[text:, text:] = False
    token = torch.arange(grid * grid)[:, None].expand_as(index)
    allowed[text + token[exists], text + index[exists]] = True
    return allowed


def shares(dim: int) -> tuple[int, int]:
    """How many values of a state come from elsewhere: of the token before in a text, and from above in a picture.

    As many as from above come from the left, the next ones. torch.chunk's sizes: a half and a quarter, rounded up.
    """
    return -(-dim // 2), -(-dim // 4)


def shifted(x: Tensor, text: int, grid: int) -> Tensor:
    """x (b, n, dim), normalised states of `text` text positions and of some image tokens -> with parts from elsewhere.

    In the text the first half of a state is that of the position before. In the picture the first quarter is that of
    the token above, the second quarter that of the token to the left; zeros at the picture's edges.
    """
    half, quarter = shares(x.shape[-1])
    words, image = x[:, :text], x[:, text:]
    words = torch.cat([F.pad(words[..., :half], (0, 0, 1, -1)), words[..., half:]], dim=-1)
    count = image.shape[1]
    above = F.pad(image[..., :quarter], (0, 0, grid, 0))[:, :count]
    left = F.pad(image[..., quarter : 2 * quarter], (0, 0, 1, 0))[:, :count]
    inside = (torch.arange(count, device=x.device) % grid != 0).to(x.dtype)[:, None]
    image = torch.cat([above, left * inside, image[..., 2 * quarter :]], dim=-1)
    return torch.cat([words, image], dim=1)
