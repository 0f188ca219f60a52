"""Duplicates and near-duplicates are found, and memory does not grow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from model.training.duplicates import Image as Pixels
from model.training.duplicates import Seen, thumbnail


def drawing(seed: int) -> Pixels:
    """Ten coloured ellipses on white."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(10):
        x, y = random.integers(0, 200, 2)
        draw.ellipse(
            (x, y, x + random.integers(20, 120), y + random.integers(20, 120)), fill=tuple(random.integers(0, 256, 3))
        )
    return np.array(image)


def again(image: Pixels, size: int, quality: int) -> Pixels:
    """The picture as JPEG in another size, and back."""
    out = io.BytesIO()
    Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS).save(out, "JPEG", quality=quality)
    with Image.open(out) as file:
        return np.array(file.resize((256, 256), Image.Resampling.LANCZOS))


def test_one_pixel_makes_another_picture_that_looks_the_same() -> None:
    seen, image = Seen(), drawing(1)
    other = image.copy()
    other[255, 255, 2] ^= 1
    assert [seen(image), seen(image.copy()), seen(other)] == ["", "duplicate picture", "near-duplicate picture"]
    exact = Seen(near=False)
    assert [exact(image), exact(image), exact(other)] == ["", "duplicate picture", ""]


@pytest.mark.parametrize(("size", "quality"), [(256, 75), (200, 80), (400, 80)])
def test_another_compression_or_size_looks_the_same(size: int, quality: int) -> None:
    seen = Seen()
    images = [drawing(seed) for seed in range(40)]
    assert [seen(image) for image in images] == [""] * 40
    found = [seen(again(image, size, quality)) for image in images]
    assert found.count("near-duplicate picture") >= 39


def test_pictures_that_differ_do_not_look_the_same() -> None:
    seen = Seen()
    red, blue, moved = (Image.new("RGB", (256, 256), "white") for _ in range(3))
    ImageDraw.Draw(red).ellipse((60, 60, 120, 120), fill=(220, 30, 30))
    ImageDraw.Draw(blue).ellipse((60, 60, 120, 120), fill=(30, 30, 220))
    ImageDraw.Draw(moved).ellipse((100, 60, 160, 120), fill=(220, 30, 30))
    assert [seen(np.array(image)) for image in (red, blue, moved)] == ["", "", ""]


def test_a_forgotten_picture_may_come_again() -> None:
    images = [drawing(seed) for seed in range(12)]
    seen = Seen(exact_buckets=1, thumbnails=2, ways=3)
    assert [seen(image) for image in images] == [""] * 12
    assert seen(images[-1]) == "duplicate picture"
    assert seen(images[0]) == ""
    assert seen(images[0]) == "duplicate picture"


def test_a_thumbnail_is_the_mean_of_each_cell() -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    image[:32, 32:64] = (10, 20, 30)
    found = thumbnail(image)
    assert found[0, 1].tolist() == [10, 20, 30]
    assert found.sum() == 60
