"""Places RGBA ink on a canvas, as a picture of 256 x 256 pixels.

Ink is an RGBA image cropped to its visible part, with a longer side of 256. A picture is RGB, 256 x 256: a plain canvas
with inks in boxes (left, top, right, bottom), in fractions of the side. This module does not know where a drawing came
from or what it shows.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

SIZE = 256
PAD = 0.08  # of the side, around a single thing
_VISIBLE = 24  # alpha, of 255, from which a pixel is ink

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

WHITE: Colour = (255, 255, 255)


class RenderError(ValueError):
    """The drawing cannot be rendered, or is blank. The message names the kind of fault, so faults can be counted."""


def visible_box(image: Image.Image) -> Box:
    """The box of the visible part, in pixels. Raises RenderError when it is less than 4 pixels wide or high."""
    seen = np.asarray(image)[..., 3] >= _VISIBLE
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if len(rows) < 4 or len(columns) < 4:
        raise RenderError("blank")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def crop(image: Image.Image) -> Image.Image:
    """Crop to the visible part and scale the longer side to 256. Raises RenderError."""
    left, top, right, bottom = visible_box(image)
    return fit(image.crop((int(left), int(top), int(right), int(bottom))), SIZE, SIZE)


def fit(image: Image.Image, width: float, height: float) -> Image.Image:
    """Scale to lie within width x height, keeping its shape (Lanczos, alpha premultiplied)."""
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if size == image.size:
        return image
    return image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


def paint(background: Colour, placed: Sequence[tuple[Image.Image, Box]]) -> Image.Image:
    """Paint inks on a plain canvas, each centred in its box and as large as fits."""
    picture = Image.new("RGB", (SIZE, SIZE), background)
    for ink, (left, top, right, bottom) in placed:
        fitted = fit(ink, SIZE * (right - left), SIZE * (bottom - top))
        at = round((SIZE * (left + right) - fitted.width) / 2), round((SIZE * (top + bottom) - fitted.height) / 2)
        picture.paste(fitted, at, fitted)
    return picture


def visible_share(ink: Image.Image, background: Colour, distance: float = 60.0) -> float:
    """The share of the ink's pixels whose colour lies `distance` or more (RGB, Euclidean) from the background's."""
    pixels = np.asarray(ink.resize((64, 64)), dtype=np.float32).reshape(-1, 4)
    solid = pixels[pixels[:, 3] > 128, :3]
    if not len(solid):
        return 0.0
    return float((np.linalg.norm(solid - np.array(background, dtype=np.float32), axis=1) >= distance).mean())


def encode(picture: Image.Image) -> bytes:
    """A picture as lossless WebP."""
    out = io.BytesIO()
    picture.save(out, "WEBP", lossless=True, quality=40, method=2)
    return out.getvalue()
