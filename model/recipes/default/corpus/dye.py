"""Dyes a drawing: in its SVG text, the shades of its main colour are replaced by those of a named colour.

Pictures of the kind "dyed" show such drawings. (Those of the kind "recolour" show one-coloured icons and shapes.)

    main = main_family(svg)             # the shades that most of the drawing is painted in, or None
    if main: dye(svg, main, "blue")

A shade keeps its difference in lightness to the main shade. Parts of another colour, such as eyes, wheels and leaves,
stay as they are. Only plain fills are supported, so a drawing with gradients has no family.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.drawings.colours import SHADES
from model.drawings.drawing import Colour, RenderError

from .render import rendered

_HEX = re.compile(r"#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b")
_PAINTED_OTHERWISE = re.compile(r"Gradient|<image|rgba?\(|hsla?\(|<style|opacity")
_PIXELS = 96  # side of the rendering by which areas are measured
_HUES = 24 / 360  # shades of one colour differ in hue by at most this
_GREYISH = 0.24  # saturation below which a shade has no hue of its own
_DARK = 0.36  # value (HSV) below which a shade without a hue is black
_LEAST = 0.5  # least share of the ink for a main colour
_NEAR = 60  # RGB, Euclidean: a colour that is farther from all of `SHADES` has no name
_DEEPEST, _PALEST = 0.32, 0.26  # difference in lightness from the main shade to the deepest and to the palest


@dataclass(frozen=True)
class Family:
    """The shades of a drawing's main colour. main: the one with the largest area. shades: all, "#rrggbb" or "#rgb"."""

    main: Colour
    shades: tuple[str, ...]


def main_family(svg: str) -> Family | None:
    """The colour of half of the drawing or more. None if there is none, or if fills are not plain."""
    if _PAINTED_OTHERWISE.search(svg):
        return None
    areas = dict(_areas(svg))
    if not areas:
        return None
    best: Family | None = None
    most = _LEAST
    for text in areas:
        members = tuple(other for other in areas if _akin(_colour(text), _colour(other)))
        share = sum(areas[other] for other in members)
        if areas[text] == max(areas[other] for other in members) and share >= most:
            best, most = Family(_colour(text), members), share
    return best


def nearest_shades(colours: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """RGB colours (n, 3) -> index of the colour of `SHADES` with the nearest shade, (n,), and the distance to it."""
    points = np.asarray(colours, dtype=np.float64)
    distances = []
    for deep, middle, pale in SHADES.values():
        ends = [_distances(points, np.array(end, dtype=np.float64), np.array(middle)) for end in (deep, pale)]
        distances.append(np.minimum(*ends))
    table = np.stack(distances)
    return table.argmin(0), table.min(0)


def named(family: Family) -> str:
    """The colour of `SHADES` that is nearest to the main shade. "" if none is near."""
    nearest, distance = nearest_shades([family.main])
    return list(SHADES)[nearest[0]] if distance[0] < _NEAR else ""


def dye(svg: str, family: Family, colour: str) -> str:
    """The SVG text with the family's shades replaced by those of a colour of `SHADES`."""
    replaced = {text: _hex(_shade(_colour(text), family.main, colour)) for text in family.shades}
    return _HEX.sub(lambda found: replaced.get(found[0].lower(), found[0]), svg)


def has_black(svg: str, family: Family) -> bool:
    """Whether a part of the drawing outside its main colour is nearly black, as eyes are."""
    others = {text.lower() for text in _HEX.findall(svg)}.difference(family.shades)
    return any(max(_colour(text)) < _DARK * 255 for text in others)


def _areas(svg: str) -> Iterator[tuple[str, float]]:
    """Each colour of the text with its share of the visible ink."""
    texts = sorted({text.lower() for text in _HEX.findall(svg)})
    try:
        pixels = np.asarray(rendered(svg, _PIXELS)).reshape(-1, 4)
    except RenderError:
        return
    ink = pixels[pixels[:, 3] > 200, :3].astype(np.float32)
    if not texts or not len(ink):
        return
    table = np.array([_colour(text) for text in texts], dtype=np.float32)
    distances = np.linalg.norm(ink[:, None] - table, axis=2)
    nearest, exact = distances.argmin(1), distances.min(1) < 12
    if exact.mean() < 0.6:  # fills are black by default, or blended: not plain
        return
    for at, text in enumerate(texts):
        yield text, float((nearest[exact] == at).mean())


def _akin(first: Colour, second: Colour) -> bool:
    """Whether both are shades of one colour: both of nearly the same hue, both grey or white, or both nearly black."""
    (h, s, v), (other_h, other_s, other_v) = (colorsys.rgb_to_hsv(*(x / 255 for x in c)) for c in (first, second))
    if min(s, other_s) < _GREYISH or min(v, other_v) < _DARK / 2:
        return max(s, other_s) < _GREYISH + 0.1 and (v < _DARK) == (other_v < _DARK)
    turn = abs(h - other_h)
    return min(turn, 1 - turn) <= _HUES


def _shade(colour: Colour, main: Colour, name: str) -> Colour:
    deep, middle, pale = (np.array(shade, dtype=np.float64) for shade in SHADES[name])
    step = _lightness(colour) - _lightness(main)
    end, share = (deep, -step / _DEEPEST) if step < 0 else (pale, step / _PALEST)
    red, green, blue = (round(float(x)) for x in middle + (end - middle) * min(1.0, share))
    return red, green, blue


def _distances(
    points: npt.NDArray[np.float64], first: npt.NDArray[np.float64], second: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """(n,) distance of each point to the line segment between two others (RGB, Euclidean)."""
    line = second - first
    along = np.clip((points - first) @ line / (line @ line), 0, 1)
    return np.asarray(np.linalg.norm(first + along[:, None] * line - points, axis=1))


def _lightness(colour: Colour) -> float:
    red, green, blue = colour
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def _colour(text: str) -> Colour:
    digits = text.lstrip("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
