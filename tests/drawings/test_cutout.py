"""Things are cut out of plain backgrounds, and connected pieces are told apart."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from model.drawings.cutout import background_of, cut_out
from model.drawings.drawing import RenderError, paint
from model.drawings.pieces import pieces
from tests.drawings.things import drawn, on

PINK, BLUE = (255, 205, 222), (30, 60, 160)
INSET = (0.08, 0.08, 0.92, 0.92)


def test_a_thing_that_was_cut_out_looks_as_if_it_had_been_drawn_on_the_other_background() -> None:
    moved = np.asarray(paint(BLUE, [(cut_out(on(PINK)), INSET)])).astype(int)
    drawn = np.asarray(paint(BLUE, [(cut_out(on(BLUE)), INSET)])).astype(int)
    apart = np.abs(moved - drawn).max(2)
    assert apart.mean() < 1
    assert (apart > 60).mean() < 0.002  # no rim of pink
    assert (drawn[100:160, 100:160] == 255).all(2).sum() > 100  # the eye is white, and was not taken for a background


def test_only_what_stands_on_a_plain_background_is_cut_out() -> None:
    assert background_of(on(PINK)) == PINK
    ball = ("ellipse", (60, 60, 190, 190), {"fill": "red"})
    shadow = drawn("white", ("ellipse", (50, 170, 210, 215), {"fill": "gray"})).filter(ImageFilter.GaussianBlur(8))
    ImageDraw.Draw(shadow).ellipse((60, 60, 190, 190), fill="red")
    faults = {
        "on no plain background": [
            Image.radial_gradient("L").convert("RGB"),
            drawn("white", ("rectangle", (2, 2, 253, 253), {"fill": "gray"})),
        ],
        "blank": [drawn("white"), drawn("white", ("ellipse", (120, 120, 130, 130), {"fill": "red"}))],
        "small": [drawn("white", ("rectangle", (100, 100, 150, 150), {"fill": "red"}))],
        "in several pieces": [
            drawn("white", *(("ellipse", (x, 60, x + 90, 150), {"fill": "red"}) for x in (20, 140))),
        ],
        "a shadow, or hardly another": [
            shadow,
            drawn("white", ("rectangle", (60, 60, 190, 190), {"fill": (246, 246, 246)}),
                  ("rectangle", (60, 100, 190, 150), {"fill": "red"})),
        ],
    }  # fmt: skip
    for fault, pictures in faults.items():
        for picture in pictures:
            with pytest.raises(RenderError, match=fault):
                cut_out(np.asarray(picture))
    specked = drawn("white", ball, ("rectangle", (4, 4, 12, 12), {"fill": "black"}))
    assert cut_out(np.asarray(specked)).size == cut_out(np.asarray(drawn("white", ball))).size


def test_holes_and_outlines() -> None:
    ring = drawn(PINK, ("ellipse", (60, 60, 200, 200), {"outline": (40, 80, 200), "width": 120}))
    assert paint(BLUE, [(cut_out(np.asarray(ring)), INSET)]).getpixel((128, 128)) == BLUE
    for background in ("white", PINK, (200, 200, 200)):
        card = drawn(
            background, ("rectangle", (60, 70, 190, 170), {"fill": "white", "outline": (30, 30, 30), "width": 8})
        )
        pasted = np.asarray(paint(PINK, [(cut_out(np.asarray(card)), INSET)])).astype(int)
        dark = (pasted.max(2) < 120).any(1)
        assert dark[:128].any() and dark[128:].any(), background  # noqa: PT018 - above and below
        assert (pasted[128, 100:150] == 255).all()


def test_pieces_that_touch_by_a_corner_are_one_and_a_spiral_too() -> None:
    corner = np.zeros((6, 6), dtype=bool)
    corner[:3, :3] = corner[3:, 3:] = True
    assert pieces(corner).max() == 1
    u = np.zeros((9, 9), dtype=bool)
    u[:, 0] = u[:, 8] = u[:, 4] = True  # three columns, joined at the bottom
    assert pieces(u).max() == 3
    u[8] = True
    assert pieces(u).max() == 1
    spiral = np.zeros((9, 9), dtype=bool)
    spiral[0] = spiral[:, 8] = spiral[8] = spiral[2:, 0] = spiral[2, :7] = spiral[2:7, 6] = True
    assert pieces(spiral).max() == 1


def flood(mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> int:
    """Pieces counted by walking them, cell by cell."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    count = 0
    while left:
        count += 1
        edge = [left.pop()]
        while edge:
            y, x = edge.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
    return count


def test_pieces_are_those_found_by_walking() -> None:
    random = np.random.default_rng(5)
    for density in (0.2, 0.35, 0.5, 0.7):
        mask = random.random((30, 40)) < density
        labels = pieces(mask)
        assert len(np.unique(labels[mask])) == flood(mask) == labels.max()
        assert not labels[~mask].any()
