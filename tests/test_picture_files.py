"""Picture files: odd metadata does no harm to good pixels, and files that are built to be expensive are refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from model.picture_files import MAX_CHUNKS, MAX_SCANS, MAX_SEGMENTS, PictureError, examine
from model.upright import open_picture, open_upright

SIZE = (48, 32)
GRADIENT = Image.merge(
    "RGB",
    [
        Image.linear_gradient("L").resize(SIZE),
        Image.linear_gradient("L").rotate(90).resize(SIZE),
        Image.new("L", SIZE, 99),
    ],
)


def saved(kind: str, image: Image.Image = GRADIENT, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def upright(data: bytes) -> Image.Image:
    return open_upright(examine(data))


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.convert("RGB").tobytes() == other.convert("RGB").tobytes()


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def with_chunk(added: bytes, data: bytes | None = None) -> bytes:
    """A PNG with a chunk between its header and the rest."""
    data = data or saved("PNG")
    return data[:33] + added + data[33:]


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segment(added: bytes) -> bytes:
    """A JPEG with a segment at its front."""
    data = saved("JPEG")
    return data[:2] + added + data[2:]


def exif(orientation: int, order: str = ">", *others: bytes) -> bytes:
    """A TIFF file with one IFD: these other entries, and the orientation as a SHORT."""
    mark = b"MM\0*" if order == ">" else b"II*\0"
    entries = [*others, struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)]
    return mark + struct.pack(f"{order}IH", 8, len(entries)) + b"".join(entries) + bytes(4)


AS_TEXT = struct.pack(">HHI4s", 0x011A, 2, 4, b"72\0\0")  # XResolution, which is a fraction, as ASCII
BEYOND = struct.pack(">HHII", 0x010F, 2, 1000, 1 << 30)  # Make, which lies behind the end of the file
BOMB = zlib.compress(bytes(8 << 20))
SOUND = {
    "a text of 8 MB, deflated": with_chunk(chunk(b"zTXt", b"a\0\0" + BOMB)),
    "the same as iTXt": with_chunk(chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB)),
    "the same as a colour profile": with_chunk(chunk(b"iCCP", b"a\0\0" + BOMB)),
    "a text whose checksum is wrong": with_chunk(chunk(b"tEXt", b"a\0b", crc=1)),
    "a colour profile that is none": with_chunk(chunk(b"iCCP", b"")),
    "a palette's transparency with a wrong checksum": with_chunk(chunk(b"tRNS", b"\0\0\0\0\0\0", crc=1)),
    "a transparency of a size that its colours cannot have": with_chunk(chunk(b"tRNS", b"\0")),
    "a PNG's EXIF that is none": with_chunk(chunk(b"eXIf", b"hello")),
    "no last chunk": saved("PNG")[:-12],
    "something after the last chunk": saved("PNG") + b"hello",
    "chunks of pixels that are empty": with_chunk(chunk(b"IDAT", b"") * 100),
}
SOUND_JPEG = {
    "EXIF that is none": with_segment(segment(0xE1, b"Exif\0\0hello")),
    "EXIF that is cut short": with_segment(segment(0xE1, b"Exif\0\0" + exif(1)[:12])),
    "EXIF that counts more entries than it has": with_segment(segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")),
    "a table of pictures that is none": with_segment(segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\xff\xff")),
    "a colour profile that is none": with_segment(segment(0xE2, b"ICC_PROFILE\0\7\3hello")),
    "short application segments": with_segment(segment(0xE0, b"JFIF\0") + segment(0xEE, b"Adobe") + segment(0xED, b"")),
    "bytes between two segments": with_segment(b"hello"),
    "no end marker": saved("JPEG")[:-2],
    "half an end marker": saved("JPEG")[:-1],
    "something after the end": saved("JPEG") + b"hello",
}


@pytest.mark.parametrize("name", SOUND)
def test_odd_metadata_does_no_harm_to_a_png(name: str) -> None:
    assert same(upright(SOUND[name]), GRADIENT)


@pytest.mark.parametrize("name", SOUND_JPEG)
def test_odd_metadata_does_no_harm_to_a_jpeg(name: str) -> None:
    assert same(upright(SOUND_JPEG[name]), Image.open(io.BytesIO(saved("JPEG"))))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 95, "subsampling": 0}, {"optimize": True}])
def test_a_jpeg_without_its_end_is_taken_only_if_its_pixels_are_all_there(options: dict[str, Any]) -> None:
    noise = Image.effect_noise((200, 200), 60).convert("RGB")
    whole = saved("JPEG", noise, **options)
    assert same(upright(whole[:-2]), Image.open(io.BytesIO(whole)))
    for cut in (len(whole) // 2, len(whole) * 9 // 10, len(whole) - 40):
        with pytest.raises(PictureError, match="must be a picture that can be decoded, got a JPEG that is cut short"):
            upright(whole[:cut])


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_turned_as_its_orientation_says(kind: str, orientation: int) -> None:
    given = Image.Exif()
    given[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = saved(kind, exif=given, **options)
    with Image.open(io.BytesIO(data)) as image:
        assert same(upright(data), ImageOps.exif_transpose(image))
    assert "exif" not in upright(data).info  # it would be turned once more


def test_formats_that_only_training_reads_are_turned_too_and_odd_metadata_do_no_harm() -> None:
    given = Image.Exif()
    given[0x0112] = 6
    for kind in ("TIFF", "AVIF"):
        options: dict[str, Any] = {"quality": 100} if kind == "AVIF" else {}
        data = saved(kind, exif=given, **options)
        image, size = open_picture(data)
        with Image.open(io.BytesIO(data)) as stored:
            assert same(image, ImageOps.exif_transpose(stored))
        assert image.size == SIZE[::-1]
        assert sorted(size) == sorted(SIZE)
    levels = bytes(range(240))
    short = [(0x0100, 20), (0x0101, 12), (0x0102, 8), (0x0103, 1), (0x0106, 1), (0x0112, 6), (0x0116, 12)]
    entries = [struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in short] + [AS_TEXT]
    entries += [struct.pack(">HHII", tag, 4, 1, value) for tag, value in ((0x0111, 8), (0x0117, 240))]
    tags = struct.pack(">H", len(entries)) + b"".join(sorted(entries)) + bytes(4)
    image, _ = open_picture(b"MM\0*" + struct.pack(">I", 248) + levels + tags)  # a TIFF with a resolution as a text
    assert same(image, Image.frombytes("L", (20, 12), levels).transpose(Image.Transpose.ROTATE_270))


@pytest.mark.parametrize("order", "<>")
def test_the_orientation_counts_beside_entries_that_are_wrong(order: str) -> None:
    others = [AS_TEXT, BEYOND] if order == ">" else []
    turned = upright(with_segment(segment(0xE1, b"Exif\0\0" + exif(6, order, *others))))
    assert same(turned, upright(saved("JPEG")).transpose(Image.Transpose.ROTATE_270))


@pytest.mark.parametrize("kind", [2, 5, 7, 99])
def test_an_orientation_of_a_type_that_is_no_whole_number_is_none(kind: int) -> None:
    entry = struct.pack(">HHIHH", 0x0112, kind, 1, 6, 0)
    assert examine(with_segment(segment(0xE1, b"Exif\0\0" + exif(1, ">", entry)))).orientation == 1


def test_the_headers_of_a_file_are_read() -> None:
    file = examine(saved("JPEG", progressive=True))
    assert (file.kind, file.width, file.height, file.frames, file.complete) == ("JPEG", *SIZE, 1, True)
    assert 1 < file.scans < 20
    assert examine(saved("JPEG")).scans == 1
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "green", "blue")]
    for kind in ("PNG", "WEBP"):
        file = examine(saved(kind, frames[0], save_all=True, append_images=frames[1:]))
        assert (file.kind, file.frames) == (kind, 3)


def test_pixels_are_the_same_with_and_without_what_is_left_out() -> None:
    text = with_chunk(chunk(b"tEXt", b"a\0" + bytes(1000)))
    assert len(examine(text).pixels) < len(text) - 1000
    palette = Image.new("P", SIZE, 1)
    palette.putpalette([200, 0, 0, 0, 200, 0])
    palette.paste(0, (0, 0, 10, 10))
    image = upright(saved("PNG", palette, transparency=0))
    assert image.has_transparency_data
    assert image.convert("RGBA").getpixel((0, 0)) == (200, 0, 0, 0)
    levels = np.arange(48 * 32, dtype=np.uint16).reshape(32, 48) * 40
    assert np.array_equal(np.asarray(upright(saved("PNG", Image.fromarray(levels)))), levels)


def tables() -> bytes:
    return segment(0xC4, b"\0\1" + bytes(15) + b"\0") + segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0")


def many_scans(scans: int, side: int = 64) -> bytes:
    """A progressive JPEG of grey whose scans all say that there is nothing more."""
    blocks = (side // 8) ** 2
    out = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    out += segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0") + tables()
    out += segment(0xDA, b"\1\1\0\0\0\0") + bytes(blocks // 8)
    run = "0" + "1" * 14
    body = int((run + "1" * 7)[:16].ljust(16, "1"), 2).to_bytes(2, "big").replace(b"\xff", b"\xff\0")
    return out + (segment(0xDA, b"\1\1\0\1\x3f\0") + body) * (scans - 1) + b"\xff\xd9"


COSTLY: list[tuple[Callable[[], bytes], str]] = [
    (lambda: many_scans(MAX_SCANS + 1), f"must have at most {MAX_SCANS} scans, got {MAX_SCANS + 1}"),
    (lambda: with_segment(segment(0xFE, b"") * MAX_SEGMENTS), f"must have at most {MAX_SEGMENTS} segments, got more"),
    (lambda: with_segment(segment(0xDB, b"") * 10**6), f"must have at most {MAX_SEGMENTS} segments, got more"),
    (lambda: with_chunk(chunk(b"teXt", b"") * MAX_CHUNKS), f"must have at most {MAX_CHUNKS} chunks, got more"),
    (lambda: with_chunk(chunk(b"IDAT", b"") * MAX_CHUNKS), f"must have at most {MAX_CHUNKS} chunks, got more"),
    (lambda: saved("WEBP") + b"EXIF\0\0\0\0" * MAX_CHUNKS, f"must have at most {MAX_CHUNKS} chunks, got more"),
    (lambda: b"\xff\xd8" + b"\xff" * 8_000_000, "must be a whole picture, got a file that ends within its header"),
    (lambda: b"\xff\xd8" + b"\xff\0" * 4_000_000, "must be a whole picture, got a file that ends within its header"),
]


@pytest.mark.parametrize(("data", "says"), COSTLY)
def test_a_file_of_too_many_parts_is_refused_before_it_is_decoded(data: Callable[[], bytes], says: str) -> None:
    with pytest.raises(PictureError) as caught:
        examine(data()).check(1 << 24)
    assert str(caught.value) == says


def test_as_many_parts_as_encoders_write_are_taken() -> None:
    assert upright(many_scans(MAX_SCANS)).size == (64, 64)
    assert same(upright(with_chunk(chunk(b"IDAT", b"") * 10_000)), GRADIENT)
    assert same(upright(with_segment(segment(0xE2, b"ICC_PROFILE\0") * 255)), upright(saved("JPEG")))
