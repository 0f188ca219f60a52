"""An animal that no corpus has, for trying out fine-tuning: pictures of zorbs, each with its caption beside it.

python -m tests.training.zorbs my-pictures --count 24
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

BODIES = {"teal": (38, 166, 154), "purple": (142, 68, 173), "orange": (243, 156, 18)}
BACKGROUNDS = {"white": (255, 255, 255), "pink": (255, 205, 222), "yellow": (255, 241, 168)}
_FINE = 4  # drawn so many times larger, then shrunk


def zorb(body: tuple[int, int, int], background: tuple[int, int, int], random: np.random.Generator) -> Image.Image:
    """A zorb (round, one eye, two feelers, three feet), 256 x 256 RGB, of a size and at a place that vary a little."""
    image = Image.new("RGB", (256 * _FINE, 256 * _FINE), background)
    draw = ImageDraw.Draw(image)
    x, y, radius = (float(value) for value in random.integers((118, 132, 62), (139, 149, 77)))
    dark = tuple(int(value * 0.6) for value in body)

    def oval(cx: float, cy: float, rx: float, ry: float, fill: tuple[int, ...]) -> None:
        draw.ellipse([value * _FINE for value in (cx - rx, cy - ry, cx + rx, cy + ry)], fill=fill)

    for side in (-1, 1):
        top = (x + side * 0.75 * radius, y - 1.5 * radius)
        draw.line([(x * _FINE, y * _FINE), (top[0] * _FINE, top[1] * _FINE)], fill=dark, width=7 * _FINE)
        oval(*top, 9, 9, (231, 76, 60))
    for foot in (-0.6, 0, 0.6):
        oval(x + foot * radius, y + 0.98 * radius, 15, 11, dark)
    oval(x, y, radius, radius, body)
    oval(x, y - 0.15 * radius, 0.5 * radius, 0.5 * radius, (255, 255, 255))
    oval(x + 0.1 * radius, y - 0.1 * radius, 0.22 * radius, 0.22 * radius, (30, 30, 40))
    mouth = [(x - 0.4 * radius, y + 0.3 * radius), (x + 0.4 * radius, y + 0.75 * radius)]
    draw.chord([(left * _FINE, top * _FINE) for left, top in mouth], 0, 180, fill=(255, 255, 255))
    return image.resize((256, 256), Image.Resampling.LANCZOS)


def draw(folder: Path, count: int, seed: int = 0) -> None:
    """Write zorb01.png, zorb01.txt and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        body, background = list(BODIES)[number % 3], list(BACKGROUNDS)[number // 3 % 3]
        zorb(BODIES[body], BACKGROUNDS[background], random).save(folder / f"zorb{number + 1:02}.png")
        named = f"{'an' if body == 'orange' else 'a'} {body} zorb"
        caption = named if background == "white" else f"{named} on a {background} background"
        (folder / f"zorb{number + 1:02}.txt").write_text(caption + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=24)
    given = parser.parse_args()
    draw(given.folder, given.count)
