"""Pictures in: PNG, JPEG or WebP, one frame, bounded in pixels and in parts before they are decoded.

A picture is turned upright, cut to its middle square, resized, and put on white where it is transparent. Nothing is
read from anywhere but the bytes that were sent. `app.pictures.decoders` does it in other processes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from PIL import Image

from model.picture_files import PictureError, examine
from model.upright import open_upright


@dataclass(frozen=True)
class Upload:
    """A decoded picture. width, height: of the whole, upright. rgb: side * side * 3 bytes, row by row.

    empty: for every cell of the grid 1 where a pixel of it is wholly transparent (alpha 0), else 0; None without alpha.
    """

    width: int
    height: int
    rgb: bytes = field(repr=False)
    empty: bytes | None = field(repr=False)


def read_upload(data: bytes, side: int, grid: int, max_pixels: int) -> Upload:
    """The picture in `data` as a square of `side` pixels and of `grid` cells a side.

    Raises PictureError: no picture of the three formats, too many pixels, scans or parts, several frames, or damaged.
    """
    file = examine(data)
    file.check(max_pixels)
    if file.frames != 1:
        raise PictureError(f"must have 1 frame, got {file.frames}")
    return _square(open_upright(file), side, grid)


def _square(image: Image.Image, side: int, grid: int) -> Upload:
    width, height = image.size
    least = min(width, height)
    left, top = (width - least) // 2, (height - least) // 2
    image = image.crop((left, top, left + least, top + least))
    if image.mode.startswith("I"):  # 16 bits grey
        image = image.convert("I").point(lambda level: level * (1 / 257)).convert("L")
    transparent = image.has_transparency_data
    image = image.convert("RGBA" if transparent else "RGB")
    empty = None
    if transparent:
        holes = image.getchannel("A").point(lambda alpha: 255 if alpha == 0 else 0).convert("F")
        cells = holes.resize((grid, grid), Image.Resampling.BOX)
        empty = bytes(level > 0 for level in struct.unpack(f"={grid * grid}f", cells.tobytes()))
    image = image.resize((side, side), Image.Resampling.LANCZOS)
    if transparent:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return Upload(width, height, image.tobytes(), empty)
