"""Drawings of everyday things, without anything drawn; and pictures of plain figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from model.drawings.compose import Drawing
from model.drawings.concepts import everyday
from tests.training.zorbs import BODIES, zorb


def thing(slug: str, source: str = "noto") -> Drawing:
    return Drawing(f"{source}-{slug}", source, "p", "MIT", "", "", "emoji", everyday()[slug], "<svg/>")


def on(background: tuple[int, int, int], seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.asarray(zorb(BODIES["teal"], background, np.random.default_rng(seed)))


def drawn(background: Any, *parts: tuple[str, tuple[int, int, int, int], dict[str, Any]]) -> Image.Image:
    """Ellipses, rectangles and lines on a plain background, drawn four times as large and shrunk."""
    image = Image.new("RGB", (1024, 1024), background)
    canvas = ImageDraw.Draw(image)
    for kind, box, how in parts:
        getattr(canvas, kind)([4 * value for value in box], **how)
    return image.resize((256, 256), Image.Resampling.LANCZOS)
