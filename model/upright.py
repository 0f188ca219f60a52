"""The pixels of a PNG, JPEG or WebP file, turned upright: whatever browsers show is taken, however odd its metadata.

    image = open_upright(examine(data))
    image, size = open_picture(data)

The first is for files of strangers: examine and check them before. The second reads other formats, too.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from model.picture_files import ORIENTATION, PictureError, PictureFile, examine, kind_of

# By name, and not through Image.open, which loads the plugins of all 40 formats before it opens a WebP.
FILES: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WEBP": WebPImageFile,
}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_PIXELS = 178_956_970  # of open_picture: where Image.open stops
JPEG_END = b"\xff\xd9"
MORE = b"\x5a\xa5" * 32  # bytes that are no marker


def open_upright(file: PictureFile) -> Image.Image:
    """The decoded picture, of the mode that it was stored in, turned as its orientation says.

    Raises PictureError, in words of ours: Pillow's hold addresses of its objects.
    """
    try:
        image = _decode(file)
    except PictureError:
        raise
    except MemoryError:
        raise PictureError("must be a picture that can be decoded, got one that takes too much memory") from None
    except Exception as error:  # Pillow's decoders raise whatever occurs to them on damaged files
        how = "that is cut short" if "truncated" in str(error) else "that is damaged"
        raise PictureError(f"must be a picture that can be decoded, got a {file.kind} {how}") from None
    for name in ("exif", "xmp"):  # of a WebP: turned once is enough
        image.info.pop(name, None)
    return _turned(image, file.orientation)


def open_picture(data: bytes) -> tuple[Image.Image, tuple[int, int]]:
    """The first frame of any picture that Pillow reads, upright; and its width and height as stored.

    Raises PictureError for a PNG, JPEG or WebP, and for other formats whatever Pillow raises.
    """
    if kind_of(data) is None:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return _turned(image, _orientation(image)), image.size
    file = examine(data)
    file.check(MAX_PIXELS)
    return open_upright(file), (file.width, file.height)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 where none can be read. ImageOps.exif_transpose fails at tags of another type."""
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # of many kinds, and the pixels are whole
        return 1
    return found if isinstance(found, int) else 1


def _decode(file: PictureFile) -> Image.Image:
    if file.complete:
        return _load(file, file.pixels + JPEG_END * (file.kind == "JPEG"))
    # Only the end marker may be missing. More bytes before it change no pixel then, and do where the scan is cut short.
    image, other = (_load(file, file.pixels + more + JPEG_END) for more in (b"", MORE))
    if image.tobytes() != other.tobytes():
        raise PictureError("must be a picture that can be decoded, got a JPEG that is cut short")
    return image


def _load(file: PictureFile, pixels: bytes) -> Image.Image:
    image: Image.Image = FILES[file.kind](io.BytesIO(pixels))
    if image.size != (file.width, file.height):
        raise PictureError(f"must have one size, got {file.width} x {file.height} and another one")
    image.load()
    return image
