"""Pictures that are composed of drawings: one alone, on a colour, beside another, or several times.

Captions are exact by construction. One that says "to the left of" is true, because the drawing was put there. A
`Picture` is the plan of a picture, and `painted` paints it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from PIL import Image

from . import captions
from .captions import Captions
from .colours import COLOURS
from .concepts import Concept, everyday
from .drawing import PAD, WHITE, Box, Colour, encode, paint, visible_share

ALONE: Box = (PAD, PAD, 1 - PAD, 1 - PAD)  # of a thing that is alone
BACKGROUNDS = tuple(colour for colour in COLOURS if colour != "white")


@dataclass(frozen=True)
class Drawing:
    """One drawing, not yet rendered.

    key: unique in the corpus. package: the package that it came from, with its version. licence: its SPDX identifier.
    style: a key of `captions.STYLES`. colour: the named colour that an icon was given; "" if it has its own colours.
    art: SVG text, or a raster file.
    """

    key: str
    source: str
    package: str
    licence: str
    author: str
    url: str
    style: str
    concept: Concept
    art: str | Path
    keywords: tuple[str, ...] = ()
    colour: str = ""

    @property
    def everyday(self) -> bool:
        """Whether it shows one of the everyday things."""
        return self.concept.slug in everyday()


@dataclass(frozen=True)
class Picture:
    """A picture to be painted: drawings in boxes on a plain canvas, with the metadata of its sample.

    placed: keys of drawings, each with its box. drawing: the first drawing, which gives the source, licence and author.
    contrast: the share of the ink that must stand out from the background. If less does, the picture is dropped.
    """

    key: str
    kind: str
    concept: str
    captions: Captions
    drawing: Drawing
    placed: tuple[tuple[str, Box], ...]  # keys of drawings
    background: Colour = WHITE
    mirror: bool = True
    contrast: float = 0.0
    split: str = "train"


def painted(picture: Picture, inks: Mapping[str, Image.Image]) -> bytes:
    """A picture as WebP; b"" when one of its drawings does not stand out from the background."""
    placed = [(inks[key], box) for key, box in picture.placed]
    if any(visible_share(ink, picture.background) < picture.contrast for ink, _ in placed):
        return b""
    return encode(paint(picture.background, placed))


def single(drawing: Drawing, say_style: bool = False) -> Picture:
    """A drawing alone, large, in the middle of a white canvas.

    say_style: every caption names the style, and the kind is "styled".
    """
    concept = drawing.concept
    if drawing.colour:
        kind, texts = "recolour", captions.of_recoloured(concept.names[0], drawing.style, drawing.colour)
    elif say_style:
        kind, texts = "styled", captions.of_styled(concept, drawing.style)
    else:
        kind, texts = "single", captions.of_single(concept, drawing.style, drawing.keywords)
    return Picture(
        drawing.key, kind, concept.slug, texts, drawing, ((drawing.key, ALONE),), WHITE, concept.mirror, contrast=0.02
    )


def background_texts(drawing: Drawing, colour: str) -> Captions:
    """Captions of a drawing on a named colour."""
    return captions.by_names(drawing.concept.names, lambda name: captions.of_background(name, colour))


def on_backgrounds(rng: Random, drawing: Drawing, number: int) -> Iterator[Picture]:
    """A drawing in the box of `single` on `number` of the named colours, so that only the background is new to learn.

    Flags and symbols are included: people ask for a heart on black.
    """
    if drawing.colour or drawing.concept.group == "portrait":
        return
    for colour in rng.sample(BACKGROUNDS, min(number, len(BACKGROUNDS))):
        yield replace(
            single(drawing),
            key=f"{drawing.key}-on-{colour.replace(' ', '-')}",
            kind="background",
            captions=background_texts(drawing, colour),
            background=COLOURS[colour],
            contrast=0.75,
        )


_CELL = 1 / 32  # of the canvas's side: one image token
_HALF, _THIRD = 14, 10  # cells: the width of one thing of two, and of one of three, that are side by side


def _slot(left: int, top: int, cells: int) -> Box:
    """A square box, in cells. A thing has the same pixels in boxes of one size, and nearly the same tokens."""
    return left * _CELL, top * _CELL, (left + cells) * _CELL, (top + cells) * _CELL


_LEFT, _RIGHT = _slot(1, 9, _HALF), _slot(17, 9, _HALF)
_UPPER, _LOWER = _slot(9, 1, _HALF), _slot(9, 17, _HALF)
# Number of things -> their boxes. There are few boxes, and whole groups of tokens lie between them. So a model can use
# in one box what it learnt in another, and can copy the thing that it has drawn.
ARRANGEMENTS: dict[int, tuple[Box, ...]] = {
    2: (_LEFT, _RIGHT),
    3: (_UPPER, _slot(1, 17, _HALF), _slot(17, 17, _HALF)),
    4: tuple(_slot(x, y, _HALF) for y in (1, 17) for x in (1, 17)),
    5: (
        *(_slot(x, 0, _THIRD) for x in (3, 19)),
        _slot(11, 11, _THIRD),
        *(_slot(x, 22, _THIRD) for x in (3, 19)),
    ),
}


def pair(rng: Random, first: Drawing, second: Drawing, key: str) -> Picture:
    """Two drawings of one source: side by side (70 %), or one above the other."""
    above = rng.random() < 0.3
    boxes = (_UPPER, _LOWER) if above else (_LEFT, _RIGHT)
    firsts, seconds = first.concept.names, second.concept.names
    return Picture(
        key,
        "pair",
        f"{first.concept.slug}+{second.concept.slug}",
        captions.by_names(firsts, lambda a: captions.by_names(seconds, lambda b: captions.of_pair(a, b, above))),
        first,
        ((first.key, boxes[0]), (second.key, boxes[1])),
        mirror=above and first.concept.mirror and second.concept.mirror,
    )


def count(rng: Random, drawing: Drawing, key: str, number: int = 0) -> Picture:
    """`number` (two to five) of the same drawing; 0 draws the number at random."""
    number = number or rng.choice((2, 2, 3, 3, 4, 5))
    counted = [name for name in drawing.concept.names if name.article in ("a", "an")]
    return Picture(
        key,
        "count",
        drawing.concept.slug,
        captions.by_names(counted, lambda name: captions.of_count(name, number)),
        drawing,
        tuple((drawing.key, box) for box in ARRANGEMENTS[number]),
        mirror=drawing.concept.mirror,
    )
