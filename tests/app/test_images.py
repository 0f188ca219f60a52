"""The files that pictures become, read by Pillow."""

from __future__ import annotations

import asyncio
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.pictures.encode import Finish, Format, Threads, encode_png


def decoded(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.verify()  # every chunk's checksum
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_what_goes_in_comes_out(width: int, height: int, random: st.DataObject) -> None:
    rgb = random.randbytes(width * height * 3)  # type: ignore[attr-defined]
    image = decoded(encode_png(rgb, width, height))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (width, height))
    assert image.tobytes() == rgb


def test_texts_in_any_script_and_the_same_bytes_each_time() -> None:
    texts = {"Seed": "7", "Model": "früh", "Title": "鸭子"}
    png = encode_png(bytes(12), 2, 2, texts)
    assert decoded(png).text == texts  # type: ignore[attr-defined]
    assert png == encode_png(bytes(12), 2, 2, texts)


def test_a_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="not enough image data"):
        encode_png(bytes(11), 2, 2)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_file_has_the_kind_and_the_side_that_was_wanted(kind: Format) -> None:
    rgb = Image.linear_gradient("L").resize((16, 16)).convert("RGB").tobytes()
    small, large = (Finish(kind, quality, 48).encode(rgb, 16, {"Seed": "1"}) for quality in (0, 100))
    assert (len(small) < len(large)) == (kind != "png")
    image = Image.open(io.BytesIO(large))
    assert (image.format, image.mode, image.size) == (kind.upper(), "RGB", (48, 48))
    assert image.info.get("Seed") == ("1" if kind == "png" else None)


def test_threads_do_what_the_function_does() -> None:
    async def encode() -> bytes:
        threads = Threads(1, "test")
        try:
            return await threads.run(encode_png, bytes(12), 2, 2, {"Seed": "1"})
        finally:
            threads.close()

    assert asyncio.run(encode()) == encode_png(bytes(12), 2, 2, {"Seed": "1"})
