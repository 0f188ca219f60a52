"""What every image tokenizer asks of the pictures and ids that it is given."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor


def check_pictures(pictures: Tensor, channels: int, size: int) -> None:
    """Raises ValueError where pictures are not (batch, channels, size, size) of a floating type."""
    if pictures.ndim != 4 or pictures.shape[1:] != (channels, size, size) or not pictures.is_floating_point():
        found = f"{tuple(pictures.shape)} of {pictures.dtype}"
        raise ValueError(f"pictures must be (batch, {channels}, {size}, {size}) of floats in [0, 1], got {found}")


def as_grid(ids: Tensor, grid: int, codes: int) -> Tensor:
    """ids (b, grid, grid) or (b, grid * grid), int64 -> (b, grid, grid).

    Raises ValueError for another shape or an id outside a codebook of `codes`.
    """
    if ids.ndim == 2 and ids.shape[1] == grid * grid:
        ids = rearrange(ids, "b (h w) -> b h w", h=grid)
    if ids.ndim != 3 or ids.shape[1:] != (grid, grid):
        raise ValueError(f"ids must be (batch, {grid}, {grid}) or (batch, {grid**2}), got {tuple(ids.shape)}")
    if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < codes):
        raise ValueError(f"ids must be from 0 to {codes - 1}, got {int(ids.min())} to {int(ids.max())}")
    return ids
