"""Pictures that clients send: every format and mode, what is refused, and empty cells of masks. See `test_decoders`."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.pictures.decode import Upload, read_upload
from model.picture_files import PictureError

SIDE, GRID = 16, 4
PIXELS = 1 << 16


def read(data: bytes, max_pixels: int = PIXELS) -> Upload:
    return read_upload(data, SIDE, GRID, max_pixels)


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def colours(upload: Upload) -> set[tuple[int, ...]]:
    return {tuple(upload.rgb[i : i + 3]) for i in range(0, len(upload.rgb), 3)}


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG file of one grey level; its header says so."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [header, body, b"IDAT" + zlib.compress(b"\0" * 100), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks if chunk
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(16, 16), (3, 40), (200, 50), (1, 1)])
def test_every_format_and_shape_becomes_the_square(kind: str, size: tuple[int, int]) -> None:
    upload = read(file(Image.new("RGB", size, (200, 30, 30)), kind))
    assert (upload.width, upload.height) == size
    assert len(upload.rgb) == SIDE * SIDE * 3
    assert upload.empty is None
    assert all(abs(a - b) <= 6 for colour in colours(upload) for a, b in zip(colour, (200, 30, 30), strict=True))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_png_is_read(mode: str) -> None:
    image = Image.new("L", (16, 16), 255)
    levels = image.convert("I").point(lambda level: level * 257) if mode.startswith("I") else image
    assert colours(read(file(levels.convert(mode)))) == {(255, 255, 255)}


def test_sixteen_bits_keep_their_brightness() -> None:
    image = Image.new("I;16", (16, 16), 257 * 100)
    assert colours(read(file(image))) == {(100, 100, 100)}


def test_a_jpeg_in_cmyk_is_read() -> None:
    assert len(read(file(Image.new("CMYK", (16, 16)), "JPEG")).rgb) == SIDE * SIDE * 3


def test_the_middle_square_is_taken() -> None:
    image = Image.new("RGB", (30, 10), "red")
    image.paste((0, 0, 255), (10, 0, 20, 10))
    assert colours(read(file(image))) == {(0, 0, 255)}


def test_a_photograph_is_turned_upright() -> None:
    image = Image.new("RGB", (16, 16), "white")
    image.paste((0, 0, 0), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    upload = read(file(image, "JPEG", exif=exif, quality=100))
    assert upload.rgb[0] > 200
    assert upload.rgb[-1] < 50


def test_transparent_parts_lie_on_white_and_do_not_bleed() -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 32, 16))
    upload = read(file(image))
    assert tuple(upload.rgb[:3]) == (0, 0, 255)
    assert tuple(upload.rgb[-3:]) == (255, 255, 255)
    middle = upload.rgb[7 * SIDE * 3 : 9 * SIDE * 3]
    assert all(middle[i] <= middle[i + 2] for i in range(0, len(middle), 3))  # the red below the hole shows nowhere


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_cell_is_empty_if_any_pixel_of_it_has_alpha_zero(kind: str) -> None:
    image = Image.new("RGBA", (64, 64), (9, 9, 9, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((63, 47), (0, 0, 0, 0))
    image.putpixel((32, 32), (0, 0, 0, 1))
    empty = read(file(image, kind, **({"lossless": True} if kind == "WEBP" else {}))).empty
    assert empty is not None
    assert [i for i, hole in enumerate(empty) if hole] == [0, 11]


def test_a_palette_with_a_transparent_colour_has_empty_cells() -> None:
    image = Image.new("P", (16, 16), 1)
    image.paste(0, (0, 0, 16, 4))
    empty = read(file(image, transparency=0)).empty
    assert empty == bytes([1, 1, 1, 1]) + bytes(12)


def test_a_large_mask_misses_no_pixel() -> None:
    image = Image.new("RGBA", (1000, 1000), (9, 9, 9, 255))
    image.putpixel((999, 0), (0, 0, 0, 0))
    empty = read(file(image), 1 << 20).empty
    assert empty is not None
    assert [i for i, hole in enumerate(empty) if hole] == [GRID - 1]


FRAMES = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
SOUND = file(Image.effect_noise((64, 64), 50))
WRONG = [
    (b"", "must be a PNG, JPEG or WebP file, got an empty file"),
    (b"hello", "must be a PNG, JPEG or WebP file, got 5 bytes of something else"),
    (file(FRAMES[0], "GIF"), "must be a PNG, JPEG or WebP file, got"),
    (file(FRAMES[0], "BMP"), "must be a PNG, JPEG or WebP file, got"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "must be a PNG, JPEG or WebP file, got"),
    (SOUND[:20], "got a file that ends within its header"),
    (SOUND[: len(SOUND) // 2], "must be a picture that can be decoded, got a PNG that is cut short"),
    (file(Image.effect_noise((64, 64), 50), "JPEG")[:6], "got a file that ends within its header"),
    (file(FRAMES[0], "WEBP")[:20], "got a file that ends within its header"),
    (file(FRAMES[0], "WEBP")[:-9], "must be a picture that can be decoded, got a"),
    (file(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "must have 1 frame, got 2"),
    (file(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "must have 1 frame, got 2"),
    (png(100_000, 100_000), "must have 1 to 65536 pixels, got 100000 x 100000"),
    (png(257, 256), "got 257 x 256"),
    (png(0, 5), "got 0 x 5"),
    (png(2**31, 2**31), "got 2147483648 x 2147483648"),
    (png(64, 64), "must be a picture that can be decoded, got a"),  # fewer bytes than pixels
    (png(8, 8, b"iCCP" + b"x\0\0" + zlib.compress(b"\0" * 100)), ""),  # an odd profile harms nobody
    (file(Image.new("RGB", (300, 300)), "JPEG"), "got 300 x 300"),
    (file(Image.new("RGB", (300, 300)), "WEBP"), "got 300 x 300"),
    (file(Image.new("RGB", (300, 300)), "WEBP", lossless=True), "got 300 x 300"),
    (file(Image.new("RGBA", (300, 300)), "WEBP", save_all=True), "got 300 x 300"),
    (b"\xff\xd8" + b"\xff" * 50, "got a file that ends within its header"),
    (b"\xff\xd8\xff\xda\0\0", "got a file that ends within its header"),
    (b"RIFF\0\0\0\0WEBPVP8X" + b"\0" * 10, "got a file that ends within its header"),
    (b"RIFF\0\0\0\0WEBPXXXX" + b"\0" * 30, "got a file that ends within its header"),
    (b"RIFF\0\0\0\0WEBPVP8X" + b"\xff" * 14, "got 16777216 x 16777216"),
]


@pytest.mark.parametrize(("data", "says"), WRONG)
def test_what_cannot_be_read_is_refused_in_words(data: bytes, says: str) -> None:
    if not says:
        assert read(data)
        return
    with pytest.raises(PictureError) as caught:
        read(data)
    assert str(caught.value).startswith("must ")
    assert says in str(caught.value)
    assert len(str(caught.value)) < 100
    assert "0x" not in str(caught.value)  # an address of an object


@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.data())
@settings(max_examples=150, deadline=None)
def test_damage_is_refused_or_harmless(kind: str, data: st.DataObject) -> None:
    """Whatever the bytes, the answer is a picture of the right size or a PictureError."""
    sound = file(Image.new("RGBA" if kind != "JPEG" else "RGB", (24, 24), "red"), kind)
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))]) if data.draw(st.booleans()) else bytes(damaged)
    try:
        upload = read(cut)
    except PictureError:
        return
    assert len(upload.rgb) == SIDE * SIDE * 3
