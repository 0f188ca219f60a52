"""Measures a drawing on a plain background by its pixels: the background's colour, and the pieces on it.

Ink is all that differs from the background. Nothing here is learnt, so no model can be trained to please it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.drawings.colours import COLOURS, SHADES
from model.drawings.drawing import PAD, SIZE
from model.drawings.pieces import Mask, at_edges, pieces
from model.recipes.default.corpus.dye import nearest_shades

FRAME = 4  # pixels: width of the frame by which the background is found
NEAR = 25.0  # a pixel nearer than this to the background's colour (RGB, Euclidean) is background
PLAIN = 0.6  # share of the frame that must have the background's colour
SPECK = 0.15  # of the largest piece: smaller ones are details or dirt, and not counted
LEAST = 0.002  # of the picture's pixels: smaller pieces are never counted

Colour = tuple[int, int, int]
Pixels = npt.NDArray[Any]


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"), dtype=np.int16)


def _distance(pixels: Pixels, colour: Colour) -> npt.NDArray[np.float32]:
    difference: npt.NDArray[np.float32] = np.linalg.norm((pixels - np.array(colour)).astype(np.float32), axis=-1)
    return difference


def frame_colour(image: Image.Image) -> tuple[Colour, float]:
    """The most frequent colour of the picture's frame, and its share of the frame."""
    pixels = _pixels(image)
    frame = np.concatenate(
        [pixels[:FRAME].reshape(-1, 3), pixels[-FRAME:].reshape(-1, 3),
         pixels[FRAME:-FRAME, :FRAME].reshape(-1, 3), pixels[FRAME:-FRAME, -FRAME:].reshape(-1, 3)]
    )  # fmt: skip
    bins, member = np.unique(frame // 32, axis=0, return_inverse=True)
    fullest = np.bincount(member.ravel(), minlength=len(bins)).argmax()
    red, green, blue = (int(value) for value in np.median(frame[member.ravel() == fullest], axis=0))
    return (red, green, blue), float((_distance(frame, (red, green, blue)) < NEAR).mean())


def colour_name(colour: Colour) -> str:
    """The nearest of the corpus's named colours."""
    return min(COLOURS, key=lambda name: float(np.linalg.norm(np.subtract(COLOURS[name], colour))))


def background(image: Image.Image) -> str | None:
    """The name of the background's colour. None if the frame is not plain."""
    colour, share = frame_colour(image)
    return colour_name(colour) if share >= PLAIN else None


def ink(image: Image.Image) -> Mask:
    """(h, w) bool: True where the picture differs from its background."""
    mask: Mask = _distance(_pixels(image), frame_colour(image)[0]) >= NEAR
    return mask


def main_colour(image: Image.Image) -> str | None:
    """The colour of most of the ink, as one of the colours of dyed things (`SHADES`). None for a blank picture."""
    inked = _pixels(image)[ink(image)]
    if not len(inked):
        return None
    nearest, _ = nearest_shades(inked)
    return list(SHADES)[np.bincount(nearest).argmax()]


def count(image: Image.Image) -> int:
    """The number of pieces on the background, without details and dirt."""
    sizes = np.bincount(pieces(ink(image)).ravel())[1:]
    if not len(sizes):
        return 0
    return int((sizes >= max(SPECK * sizes.max(), LEAST * image.width * image.height)).sum())


def box(mask: Mask) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of the True pixels. None if there are none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def cut_out(image: Image.Image) -> Image.Image | None:
    """The ink as the corpus shows a single thing: on white, centred, as large as fits. None for a blank picture.

    Background that reaches the picture's edge becomes white. Background that the ink encloses is kept.
    """
    mask = ink(image)
    found = box(mask)
    if found is None:
        return None
    labels = pieces(~mask)
    outside = at_edges(labels)
    pixels = np.array(image.convert("RGB"))
    pixels[np.isin(labels, outside[outside > 0])] = 255
    thing = Image.fromarray(pixels).crop(found)
    side = SIZE * (1 - 2 * PAD)
    scale = side / max(thing.size)
    thing = thing.resize(
        (max(1, round(thing.width * scale)), max(1, round(thing.height * scale))), Image.Resampling.LANCZOS
    )
    canvas = Image.new("RGB", (SIZE, SIZE), "white")
    canvas.paste(thing, ((SIZE - thing.width) // 2, (SIZE - thing.height) // 2))
    return canvas


def halves(image: Image.Image, above: bool = False) -> tuple[Image.Image, Image.Image] | None:
    """The left and right halves of a picture, or its upper and lower halves, each `cut_out`. None if one is blank.

    The cut is the line in the middle third with the least ink. Of several such lines it is the one nearest to the
    middle.
    """
    mask = ink(image)
    across = mask.sum(1 if above else 0)
    length = len(across)
    at = min(range(length // 3, length - length // 3), key=lambda line: (int(across[line]), abs(line - length // 2)))
    width, height = image.size
    colour = frame_colour(image)[0]
    parts = ((0, 0, width, at), (0, at, width, height)) if above else ((0, 0, at, height), (at, 0, width, height))
    found = []
    for part in parts:
        canvas = Image.new("RGB", image.size, colour)
        canvas.paste(image.crop(part), part[:2])
        found.append(cut_out(canvas))
    first, second = found
    return None if first is None or second is None else (first, second)
