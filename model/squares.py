"""An upright picture -> the square that models see: its middle, in RGB, resized, with white where it is transparent.

Training, uploads and the command line share these steps. Knows no files.
"""

from __future__ import annotations

from PIL import Image


def eight_bits(image: Image.Image) -> Image.Image:
    """The same picture. 16-bit grey, which Pillow would clip at 255, becomes 8-bit grey."""
    if not image.mode.startswith("I;16"):
        return image
    return image.convert("I").point(lambda level: level * (1 / 256)).convert("L")


def on_white(image: Image.Image) -> Image.Image:
    """The picture in RGB, on white."""
    image = eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    ground = Image.new("RGB", rgba.size, "white")
    ground.paste(rgba, mask=rgba)
    return ground


def middle(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box (left, upper, right, lower) of the middle square of a picture of this width and height."""
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return left, top, left + side, top + side


def square(image: Image.Image, side: int, reducing_gap: float | None = None) -> Image.Image:
    """The middle square as RGB of side x side pixels (Lanczos). reducing_gap: of Pillow; 3 is fast."""
    image = on_white(image)
    if image.size == (side, side):
        return image
    return image.resize((side, side), Image.Resampling.LANCZOS, middle(image.size), reducing_gap)
