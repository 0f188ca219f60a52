"""Decodes a PNG, JPEG or WebP with one frame that a client sent. The number of its pixels and parts is checked first.

The picture is turned upright, cut to its middle square and resized. Its transparent parts become white. Only the bytes
that were sent are read. `app.pictures.decoders` calls this in other processes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from PIL import Image

from model.picture_files import PictureError, examine
from model.squares import eight_bits, middle, square
from model.upright import open_upright


@dataclass(frozen=True)
class Upload:
    """A decoded picture. width, height: of the whole picture, upright. rgb: side * side * 3 bytes, row by row.

    empty: a byte for every cell of the grid: 1 if one of its pixels is wholly transparent (alpha 0), else 0. None if
    the picture has no alpha.
    """

    width: int
    height: int
    rgb: bytes = field(repr=False)
    empty: bytes | None = field(repr=False)


def read_upload(data: bytes, side: int, grid: int, max_pixels: int) -> Upload:
    """The picture in `data` as a square of `side` pixels and of `grid` cells a side.

    Raises PictureError if the file has another format, is damaged, or has too many pixels, scans, parts or frames.
    """
    file = examine(data)
    file.check(max_pixels)
    if file.frames != 1:
        raise PictureError(f"must have 1 frame, got {file.frames}")
    return _square(open_upright(file), side, grid)


def _square(image: Image.Image, side: int, grid: int) -> Upload:
    width, height = image.size
    image = eight_bits(image.crop(middle(image.size)))
    empty = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        holes = image.getchannel("A").point(lambda alpha: 255 if alpha == 0 else 0).convert("F")
        cells = holes.resize((grid, grid), Image.Resampling.BOX)
        empty = bytes(level > 0 for level in struct.unpack(f"={grid * grid}f", cells.tobytes()))
        image = image.resize((side, side), Image.Resampling.LANCZOS)  # what is transparent has no colour to lend
    return Upload(width, height, square(image, side).tobytes(), empty)
