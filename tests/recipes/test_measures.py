"""Measures by pixels, on pictures whose right answer is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from model.drawings.colours import COLOURS
from model.drawings.drawing import PAD, SIZE
from model.recipes.default.evaluation import ink


def blank(colour: str = "white") -> Image.Image:
    return Image.new("RGB", (SIZE, SIZE), COLOURS[colour])


def discs(number: int, colour: str = "red", background: str = "white", radius: int = 20) -> Image.Image:
    picture = blank(background)
    for i in range(number):
        x = (2 * i + 1) * SIZE // (2 * number)
        ImageDraw.Draw(picture).ellipse((x - radius, 128 - radius, x + radius, 128 + radius), fill=COLOURS[colour])
    return picture


def noisy(picture: Image.Image) -> Image.Image:
    """As a VAE leaves it: every channel off by a few levels."""
    noise = np.random.default_rng(1).normal(0, 4, (SIZE, SIZE, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_the_background_is_named(colour: str) -> None:
    other = "white" if colour == "black" else "black"
    assert ink.background(noisy(discs(2, other, colour))) == colour


def test_a_picture_without_a_plain_frame_has_no_background() -> None:
    halves = blank("red")
    halves.paste(COLOURS["blue"], (128, 0, 256, 256))
    stripes = blank("green")
    for x in range(0, SIZE, 16):
        stripes.paste(COLOURS["yellow"], (x, 0, x + 8, SIZE))
    assert [ink.background(halves), ink.background(stripes)] == [None, None]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("background", ["white", "turquoise"])
def test_pieces_are_counted(number: int, background: str) -> None:
    picture = discs(number, background=background)
    assert ink.count(picture) == number
    if number:
        assert ink.count(noisy(picture)) == number


def test_details_and_dirt_are_not_counted() -> None:
    picture = discs(3)
    draw = ImageDraw.Draw(picture)
    for x in (10, 100, 200):
        draw.rectangle((x, 20, x + 5, 25), fill=COLOURS["blue"])
    assert ink.count(picture) == 3


def test_what_is_cut_out_stands_on_white_as_the_corpus_places_it() -> None:
    picture = blank("blue")
    ImageDraw.Draw(picture).rectangle((20, 30, 59, 109), fill=COLOURS["yellow"])
    ImageDraw.Draw(picture).rectangle((32, 50, 47, 79), fill=COLOURS["blue"])  # enclosed: part of the thing
    cut = ink.cut_out(picture)
    assert cut is not None
    pad = round(SIZE * PAD)
    left, top, right, bottom = ink.box(ink.ink(cut)) or (0, 0, 0, 0)
    assert max(abs(top - pad), abs(SIZE - bottom - pad)) <= 1
    assert abs((right - left) - (bottom - top) / 2) <= 2
    assert cut.getpixel((0, 0)) == (255, 255, 255)
    assert ink.colour_name(cut.getpixel((128, 128))) == "blue"  # type: ignore[arg-type]
    assert ink.cut_out(blank("green")) is None


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("at", [100, 128, 156])
def test_halves_are_cut_between_the_things(above: bool, at: int) -> None:
    picture = blank("pink")
    draw = ImageDraw.Draw(picture)
    first, second = (20, at - 8), (at + 8, 236)
    if above:
        draw.rectangle((60, first[0], 200, first[1]), fill=COLOURS["red"])
        draw.rectangle((60, second[0], 200, second[1]), fill=COLOURS["blue"])
    else:
        draw.rectangle((first[0], 60, first[1], 200), fill=COLOURS["red"])
        draw.rectangle((second[0], 60, second[1], 200), fill=COLOURS["blue"])
    found = ink.halves(picture, above)
    assert found is not None
    names = [ink.colour_name(half.getpixel((128, 128))) for half in found]  # type: ignore[arg-type]
    assert names == ["red", "blue"]
    assert all(ink.background(half) != "pink" for half in found)


def test_a_picture_of_one_thing_or_none_has_no_halves() -> None:
    left = blank()
    ImageDraw.Draw(left).ellipse((20, 100, 80, 160), fill=COLOURS["green"])
    assert ink.halves(left) is None
    assert ink.halves(blank()) is None
