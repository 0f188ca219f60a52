"""Renders drawings to RGBA ink: SVG text, or a raster file with transparency."""

from __future__ import annotations

import io
import re
from pathlib import Path

from PIL import Image

from model.drawings.drawing import SIZE, RenderError, crop, visible_box

_RENDERED = 512  # width in pixels of a rendered SVG before it is cropped
_LARGEST = 2048  # the largest such width, for a small drawing on a large page


def rendered(svg: str, width: int) -> Image.Image:
    """SVG text -> RGBA of that width in pixels. Raises RenderError."""
    import resvg_py  # imported here, because an evaluation does not need it

    try:  # without dpi=96, sizes in points or millimetres become 0
        data = resvg_py.svg_to_bytes(svg_string=svg, width=width, dpi=96, skip_system_fonts=True)
    except ValueError as error:
        raise RenderError("not rendered") from error
    return Image.open(io.BytesIO(bytes(data))).convert("RGBA")


def ink_of_svg(svg: str) -> Image.Image:
    """SVG text -> ink. Raises RenderError."""
    image = rendered(svg, _RENDERED)
    left, top, right, bottom = visible_box(image)
    longer = max(right - left, bottom - top)
    if longer < 0.8 * SIZE:  # a small drawing on a large page: render it again, larger
        image = rendered(svg, min(_LARGEST, int(_RENDERED * SIZE / longer)))
    return crop(image)


def ink_of_file(path: Path) -> Image.Image:
    """A raster file with transparency -> ink. Raises RenderError."""
    try:
        with Image.open(path) as image:
            return crop(image.convert("RGBA"))
    except OSError as error:
        raise RenderError("not decoded") from error


def iconify_svg(icon: dict[str, object], width: float, height: float, colour: str = "#222222") -> str:
    """An entry of an iconify set -> SVG text. width, height: those of the set. colour: replaces currentColor."""
    left, top = icon.get("left", 0), icon.get("top", 0)
    width_, height_ = icon.get("width", width), icon.get("height", height)
    body = str(icon["body"]).replace("currentColor", colour)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width_}" height="{height_}" viewBox="{left} {top} {width_} {height_}">{body}</svg>'
    )


_CURRENT = re.compile("currentColor", re.IGNORECASE)


def recolourable(icon: dict[str, object]) -> bool:
    """Whether an iconify entry is drawn in currentColor alone, so that it can have any colour."""
    body = str(icon["body"])
    return bool(_CURRENT.search(body)) and re.search(r"#[0-9a-fA-F]{3,8}\b|rgb", body) is None
