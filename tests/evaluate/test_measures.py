"""Measures whose right answer is known beforehand: intervals, PSNR and SSIM, codes, and what pixels tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from model.evaluate import ink
from model.evaluate.estimates import mean, proportion
from model.evaluate.fidelity import CodeCounts, psnr, ssim
from model.training.corpus.drawing import PAD, SIZE
from model.training.corpus.pieces import pieces
from model.training.corpus.shapes import COLOURS


def test_a_share_has_wilsons_interval() -> None:
    some = proportion([True] * 15 + [False] * 5)
    assert (some.value, some.n) == (0.75, 20)
    assert (some.low, some.high) == pytest.approx((0.5313, 0.8881), abs=5e-5)  # Newcombe's formula 3, by hand
    none, all_ = proportion([False] * 10), proportion([True] * 10)
    assert (none.low, none.high) == pytest.approx((0.0, 0.2775), abs=5e-5)
    assert (all_.low, all_.high) == pytest.approx((0.7225, 1.0), abs=5e-5)
    with pytest.raises(ValueError, match="none"):
        proportion([])


def test_wilsons_interval_holds_the_truth_19_times_in_20() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        found = proportion((random.random(60) < 0.3).tolist())
        inside += found.low <= 0.3 <= found.high
    assert 0.93 < inside / 2000 < 0.97


def test_a_mean_has_the_normal_interval() -> None:
    found = mean([1.0, 2.0, 3.0, 4.0])
    half = 1.959964 * math.sqrt(5 / 3 / 4)
    assert (found.value, found.low, found.high, found.n) == (2.5, 2.5 - half, 2.5 + half, 4)
    assert mean([7.0]).low == -math.inf
    with pytest.raises(ValueError, match="none"):
        mean([])


def test_psnr_of_a_constant_error() -> None:
    images = torch.full((2, 3, 16, 16), 0.5)
    painted = images + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    assert psnr(painted, images).tolist() == pytest.approx([20.0, 40.0], abs=1e-3)


def test_ssim_of_flat_pictures_is_what_the_formula_says() -> None:
    a, b, c1 = 0.2, 0.6, 0.01**2
    flat = ssim(torch.full((1, 3, 24, 24), a), torch.full((1, 3, 24, 24), b))
    assert float(flat) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-4)


def test_ssim_is_that_of_the_paper() -> None:
    """The sum of the formula over all places, written out without convolutions."""
    random = np.random.default_rng(3)
    a = random.random((20, 20))
    b = np.clip(a + random.normal(0, 0.15, (20, 20)), 0, 1)
    x = np.arange(11) - 5
    window = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    places = []
    for y in range(10):
        for at in range(10):
            p, q = a[y : y + 11, at : at + 11], b[y : y + 11, at : at + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            places.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    first, second = (torch.from_numpy(picture).float().view(1, 1, 20, 20) for picture in (a, b))
    assert float(ssim(first, second)) == pytest.approx(float(np.mean(places)), abs=1e-4)
    assert float(ssim(first, first)) == pytest.approx(1.0, abs=1e-6)


def test_codes_used_evenly_are_as_many_as_their_perplexity() -> None:
    counts = CodeCounts(8)
    assert (counts.usage, counts.perplexity) == (0.0, 0.0)
    counts.add(torch.tensor([[0, 1], [2, 3]]))
    assert counts.usage == 0.5
    assert counts.perplexity == pytest.approx(4.0)
    counts.add(torch.full((1000,), 7))
    assert counts.usage == 5 / 8
    assert counts.perplexity < 1.1


def blank(colour: str = "white") -> Image.Image:
    return Image.new("RGB", (SIZE, SIZE), COLOURS[colour])


def discs(number: int, colour: str = "red", ground: str = "white", radius: int = 20) -> Image.Image:
    picture = blank(ground)
    for i in range(number):
        x = (2 * i + 1) * SIZE // (2 * number)
        ImageDraw.Draw(picture).ellipse((x - radius, 128 - radius, x + radius, 128 + radius), fill=COLOURS[colour])
    return picture


def noisy(picture: Image.Image) -> Image.Image:
    """As a VAE leaves it: every channel off by a few levels."""
    noise = np.random.default_rng(1).normal(0, 4, (SIZE, SIZE, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_the_ground_is_named(colour: str) -> None:
    other = "white" if colour == "black" else "black"
    assert ink.background(noisy(discs(2, other, colour))) == colour


def test_a_picture_without_a_plain_frame_has_no_ground() -> None:
    halves = blank("red")
    halves.paste(COLOURS["blue"], (128, 0, 256, 256))
    stripes = blank("green")
    for x in range(0, SIZE, 16):
        stripes.paste(COLOURS["yellow"], (x, 0, x + 8, SIZE))
    assert [ink.background(halves), ink.background(stripes)] == [None, None]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("ground", ["white", "turquoise"])
def test_pieces_are_counted(number: int, ground: str) -> None:
    picture = discs(number, ground=ground)
    assert ink.count(picture) == number
    if number:
        assert ink.count(noisy(picture)) == number


def test_details_and_dirt_are_not_counted() -> None:
    picture = discs(3)
    draw = ImageDraw.Draw(picture)
    for x in (10, 100, 200):
        draw.rectangle((x, 20, x + 5, 25), fill=COLOURS["blue"])
    assert ink.count(picture) == 3


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


def test_what_is_cut_out_stands_on_white_as_the_corpus_places_it() -> None:
    picture = blank("blue")
    ImageDraw.Draw(picture).rectangle((20, 30, 59, 109), fill=COLOURS["yellow"])
    ImageDraw.Draw(picture).rectangle((32, 50, 47, 79), fill=COLOURS["blue"])  # enclosed: part of the thing
    cut = ink.cut_out(picture)
    assert cut is not None
    pad = round(SIZE * PAD)
    left, top, right, bottom = ink.box(ink.ink(cut)) or (0, 0, 0, 0)
    assert max(abs(top - pad), abs(SIZE - bottom - pad)) <= 1
    assert abs((right - left) - (bottom - top) / 2) <= 2
    assert cut.getpixel((0, 0)) == (255, 255, 255)
    assert ink.colour_name(cut.getpixel((128, 128))) == "blue"  # type: ignore[arg-type]
    assert ink.cut_out(blank("green")) is None


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("at", [100, 128, 156])
def test_halves_are_cut_between_the_things(above: bool, at: int) -> None:
    picture = blank("pink")
    draw = ImageDraw.Draw(picture)
    first, second = (20, at - 8), (at + 8, 236)
    if above:
        draw.rectangle((60, first[0], 200, first[1]), fill=COLOURS["red"])
        draw.rectangle((60, second[0], 200, second[1]), fill=COLOURS["blue"])
    else:
        draw.rectangle((first[0], 60, first[1], 200), fill=COLOURS["red"])
        draw.rectangle((second[0], 60, second[1], 200), fill=COLOURS["blue"])
    found = ink.halves(picture, above)
    assert found is not None
    names = [ink.colour_name(half.getpixel((128, 128))) for half in found]  # type: ignore[arg-type]
    assert names == ["red", "blue"]
    assert all(ink.background(half) != "pink" for half in found)


def test_one_thing_or_none_has_no_halves() -> None:
    left = blank()
    ImageDraw.Draw(left).ellipse((20, 100, 80, 160), fill=COLOURS["green"])
    assert ink.halves(left) is None
    assert ink.halves(blank()) is None
