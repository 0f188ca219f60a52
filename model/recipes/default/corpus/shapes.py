"""Plain geometric shapes of our own in any of the named colours, as SVG text."""

from __future__ import annotations

import math

from model.drawings.colours import COLOURS


def _polygon(corners: int, first: float = -90.0, inner: float = 0.0) -> str:
    """A regular polygon; with an inner radius a star. Its centre is (50, 50) and its radius 48. first: the angle of a
    corner in degrees.
    """
    steps = corners * 2 if inner else corners
    points = []
    for step in range(steps):
        radius = inner if inner and step % 2 else 48.0
        angle = math.radians(first + 360 * step / steps)
        points.append(f"{50 + radius * math.cos(angle):.2f},{50 + radius * math.sin(angle):.2f}")
    return f'<polygon points="{" ".join(points)}"/>'


# SVG elements within 0..100 x 0..100.
SHAPES: dict[str, str] = {
    "circle": '<circle cx="50" cy="50" r="48"/>',
    "square": '<rect x="4" y="4" width="92" height="92"/>',
    "triangle": '<polygon points="50,6 98,92 2,92"/>',
    "star": _polygon(5, inner=20),
    "heart": '<path d="M50 92C20 68 4 50 4 31C4 16 15 6 28 6c9 0 17 5 22 14C55 11 63 6 72 6c13 0 24 10 24 25'
    'C96 50 80 68 50 92z"/>',
    "diamond": '<polygon points="50,2 86,50 50,98 14,50"/>',
    "rectangle": '<rect x="2" y="24" width="96" height="52"/>',
    "oval": '<ellipse cx="50" cy="50" rx="48" ry="30"/>',
    "pentagon": _polygon(5),
    "hexagon": _polygon(6, first=0),
    "cross": '<path d="M36 4h28v32h32v28H64v32H36V64H4V36h32z"/>',
    "ring": '<path fill-rule="evenodd" d="M50 2a48 48 0 1 0 .01 0zM50 24a26 26 0 1 1-.01 0z"/>',
}


def shape_svg(shape: str, colour: str) -> str:
    """The figure in one of the named colours."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100" width="100" height="100">'
        f'<g fill="rgb{COLOURS[colour]}">{SHAPES[shape]}</g></svg>'
    )


def hex_of(colour: str) -> str:
    """A named colour as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*COLOURS[colour])


def far_apart(first: str, second: str, least: float = 110.0) -> bool:
    """Whether one named colour can be seen on the other. Their distance (RGB, Euclidean) must be `least` or more."""
    return math.dist(COLOURS[first], COLOURS[second]) >= least
