"""An unfinished picture that is shown again and again: only the rows that a new look can change are painted anew.

    canvas = Canvas(codec)
    canvas.show(tokens, known)  # RGB bytes: what is known, and light grey
    canvas.show(tokens, known)  # the same with further rows, for about half the work

A token changes pixels up to `reach` rows away. For our VAE those are 22 of 32 rows, so exact bands would save little.
But the change fades: with trained weights it is below one of 255 levels after six rows. So a picture's halo is measured
on the network itself. A VAE with attention or a normalisation over the whole picture has no halo and is painted whole.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.inference.image_codec import FILL, ImageCodec

VISIBLE = 2  # of 255 levels: a change up to this is not seen
_SEED = 20210124


class Canvas:
    """One unfinished picture."""

    def __init__(self, codec: ImageCodec, halo: int | None) -> None:
        """halo: rows beyond which a changed token is not seen, see `measure_halo`. None: painted whole."""
        self._codec = codec
        self._halo = halo
        self._shown: Tensor | None = None  # (grid, grid): the tokens that are painted on it
        self._end = 0  # rows above this one are painted
        grey = round(255 * FILL)
        self._pixels: NDArray[np.uint8] = np.full((codec.size, codec.size, 3), grey, np.uint8)

    def show(self, tokens: Tensor, known: Tensor) -> bytes:
        """tokens (grid * grid,) int64, known (grid * grid,) bool: the cells that are drawn -> RGB bytes.

        Cells that are not drawn are painted as those of an empty picture, and then covered by light grey.
        """
        codec = self._codec
        grid, factor = codec.grid, codec.size // codec.grid
        filled = torch.where(known, tokens, codec.blank).view(grid, grid)
        covered = (~known).view(grid, grid)
        top, end = self._changed(filled, covered)
        if top < end:
            first, last = (0, grid) if self._halo is None else (max(0, top - self._halo), min(grid, end + self._halo))
            band = codec.paint(filled[first:last])  # (rows, size, 3)
            rows = slice(top * factor, end * factor)
            self._pixels[rows] = band[(top - first) * factor : (end - first) * factor]
            self._shown, self._end = filled, max(self._end, end)
        cover = covered.repeat_interleave(factor, 0).repeat_interleave(factor, 1).numpy()  # (size, size)
        return np.where(cover[..., None], np.uint8(round(255 * FILL)), self._pixels).tobytes()

    def _changed(self, filled: Tensor, covered: Tensor) -> tuple[int, int]:
        """The rows that look different now: from the first to before the last; those wholly covered are not needed."""
        seen = (~covered).any(1).nonzero().flatten().tolist()
        end = seen[-1] + 1 if seen else 0
        if self._shown is None or self._halo is None:
            return 0, end
        changed = (filled != self._shown).any(1).nonzero().flatten().tolist()
        if not changed:
            return self._end, end
        return min(self._end, max(0, changed[0] - self._halo)), max(end, self._end)


def measure_halo(codec: ImageCodec) -> int | None:
    """After how many rows a change of tokens moves no pixel by more than VISIBLE; None if it may be seen everywhere.

    Two things are changed, as `Canvas` does: random tokens give way to those of an empty picture, and to the picture's
    edge. The halo is never more than the decoder's receptive field.
    """
    reach, grid = codec.vae.reach, codec.grid
    if reach is None:
        return None
    factor, half = codec.size // grid, grid // 2
    source = torch.Generator().manual_seed(_SEED)
    ids = torch.randint(0, codec.vae.config.codes, (grid, grid), generator=source)
    whole = codec.paint(ids)[: half * factor].astype(np.int16)
    emptied = torch.cat([ids[:half], codec.blank.view(grid, grid)[half:]])
    halo = 0
    for changed in (emptied, ids[:half]):
        other = codec.paint(changed)[: half * factor]
        moved = (
            np.abs(whole - other).max(axis=(1, 2)).reshape(half, factor).max(axis=1)
        )  # (half,): of each row of tokens
        seen = np.flatnonzero(moved > VISIBLE)
        halo = max(halo, half - int(seen[0]) if len(seen) else 0)
    return min(reach, halo if halo < half else grid)
