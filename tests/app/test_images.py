"""Our PNG encoder against Pillow's decoder."""

from __future__ import annotations

import asyncio
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.images import PngThreads, encode_png


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


def test_threads_encode_what_the_function_encodes() -> None:
    async def encode() -> bytes:
        threads = PngThreads()
        try:
            return await threads.encode(bytes(12), 2, 2, {"Seed": "1"})
        finally:
            threads.close()

    assert asyncio.run(encode()) == encode_png(bytes(12), 2, 2, {"Seed": "1"})
