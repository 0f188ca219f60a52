"""Pictures in: PNG, JPEG or WebP, one frame, bounded in pixels by what the file's header says before it is decoded.

A picture is turned upright, cut to its middle square, resized, and put on white where it is transparent. Nothing is
read from anywhere but the bytes that were sent.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field

from PIL import Image, ImageOps

from model.errors import InvalidRequest

FORMATS = "a PNG, JPEG or WebP file"
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG's SOF markers: ITU T.81, table B.1
BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})  # without a length


@dataclass(frozen=True)
class Upload:
    """A decoded picture. width, height: of the whole, upright. rgb: side * side * 3 bytes, row by row.

    empty: for every cell of the grid 1 where a pixel of it is wholly transparent (alpha 0), else 0; None without alpha.
    """

    width: int
    height: int
    rgb: bytes = field(repr=False)
    empty: bytes | None = field(repr=False)


def read_upload(name: str, data: bytes, side: int, grid: int, max_pixels: int) -> Upload:
    """The picture in `data` as a square of `side` pixels and of `grid` cells a side.

    Raises InvalidRequest with the field `name`: no picture of the three formats, too many pixels, several frames, or
    damaged.
    """
    kind, width, height = _header(name, data)
    if not 0 < width * height <= max_pixels:
        raise InvalidRequest(name, f"{name}: {width} x {height} pixels, and it must have 1 to {max_pixels}")
    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as file:
            if file.size != (width, height):
                raise InvalidRequest(name, f"{name}: its header says {width} x {height} pixels twice, and not the same")
            frames = getattr(file, "n_frames", 1)
            if frames != 1 and file.format != "MPO":  # a JPEG of a telephone; what follows the picture is not read
                raise InvalidRequest(name, f"{name}: {frames} frames, and it must have 1")
            upright = ImageOps.exif_transpose(file)
            return _square(upright, side, grid)
    except InvalidRequest:
        raise
    except Exception as error:  # Pillow's decoders raise whatever occurs to them on damaged files
        what = str(error) or type(error).__name__
        raise InvalidRequest(name, f"{name}: the picture cannot be decoded: {what[:80]}") from None


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


def _header(name: str, data: bytes) -> tuple[str, int, int]:
    """Pillow's name of the format, width and height, from the first bytes alone."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
            return "PNG", *struct.unpack(">II", data[16:24])
        if data.startswith(b"\xff\xd8"):
            return "JPEG", *_jpeg_size(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return "WEBP", *_webp_size(data)
    except (struct.error, IndexError):
        raise InvalidRequest(name, f"{name}: the file ends within its header") from None
    found = "empty" if not data else f"no picture that this server reads ({len(data)} bytes)"
    raise InvalidRequest(name, f"{name}: {found}, and it must be {FORMATS}")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Of the first frame header: ITU T.81, B.2.2. Raises IndexError or struct.error where there is none."""
    at = 2
    while True:
        if data[at] != 0xFF:
            raise IndexError(at)
        while data[at] == 0xFF:  # fill bytes
            at += 1
        marker = data[at]
        at += 1
        if marker in FRAME_HEADERS:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
        if marker in (0xD9, 0xDA):  # the end, or the scan
            raise IndexError(at)
        if marker not in BARE_MARKERS:
            at += max(2, struct.unpack_from(">H", data, at)[0])


def _webp_size(data: bytes) -> tuple[int, int]:
    """Of the first chunk: RFC 9649, sections 2.5 to 2.7. Raises IndexError or struct.error where there is none."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(_exactly(data, 27, 3), "little")
    if kind == b"VP8L":
        bits = int.from_bytes(_exactly(data, 21, 4), "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise IndexError(12)


def _exactly(data: bytes, start: int, count: int) -> bytes:
    if len(data) < start + count:
        raise IndexError(start)
    return data[start : start + count]
