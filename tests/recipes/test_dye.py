"""Drawings in colours that they do not have: what changes, what stays, and what the captions say."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

pytest.importorskip("resvg_py", reason="drawings are rendered with resvg-py, which has no wheel here")

from model.drawings.colours import SHADES
from model.drawings.compose import Drawing
from model.drawings.concepts import everyday
from model.recipes.default.corpus import dye
from model.recipes.default.corpus.builder import build
from model.recipes.default.corpus.compositions import dyes
from model.recipes.default.corpus.plan import Plan
from model.recipes.default.corpus.render import rendered
from tests.recipes.test_corpus import few_shapes, make_cache, samples  # noqa: F401  the fixture works by its name

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100" width="100" height="100">'
CAT = (
    f'{HEAD}<circle cx="50" cy="50" r="48" fill="#FFCC4D"/><path d="M10 10h20v20z" fill="#F4900C"/>'
    '<circle cx="35" cy="45" r="6" fill="#292F33"/><circle cx="65" cy="45" r="6" fill="#292f33"/>'
    '<circle cx="50" cy="62" r="5" fill="#EA596E"/></svg>'
)


def drawn(svg: str, slug: str = "cat-face") -> Drawing:
    return Drawing("set-cat", "set", "set 1", "CC0-1.0", "", "", "flat", everyday()[slug], svg)


def near(colour: str) -> str:
    """The name of the plain colour."""
    return dye.named(dye.Family(SHADES[colour][1], ()))


@pytest.mark.parametrize("colour", SHADES)
def test_the_main_colour_changes_and_the_eyes_do_not(colour: str) -> None:
    family = dye.main_family(CAT)
    assert family is not None
    assert set(family.shades) == {"#ffcc4d", "#f4900c"}
    assert dye.named(family) == "yellow"
    before, after = (np.asarray(rendered(svg, 100)).astype(int) for svg in (CAT, dye.dye(CAT, family, colour)))
    assert (before[..., 3] == after[..., 3]).all()
    assert tuple(after[80, 50, :3]) == SHADES[colour][1]  # the cheek, in the middle shade
    for y, x in ((45, 35), (45, 65), (62, 50)):
        assert (before[y, x] == after[y, x]).all()
    ear, cheek = (after[y, x, :3] @ [299, 587, 114] for y, x in ((14, 24), (80, 50)))
    assert ear < cheek  # a darker shade stays darker
    assert near(colour) == colour


def test_black_takes_the_eyes_of_animals_only() -> None:
    def colours(slug: str) -> set[str]:
        pictures = dyes(Random(0), drawn(CAT, slug), 10, 0)
        return {picture.key.rsplit("-", 1)[1] for picture in pictures}

    assert colours("automobile") - colours("cat-face") == {"black"}


@pytest.mark.parametrize(
    ("svg", "why"),
    [
        (f'{HEAD}<rect width="100" height="100" fill="url(#a)"/><linearGradient id="a"/></svg>', "a gradient"),
        (f'{HEAD}<rect width="100" height="100"/><rect width="10" height="10" fill="#e11"/></svg>', "black by default"),
        (
            HEAD + "".join(f'<rect x="{25 * i}" width="25" height="100" fill="{c}"/>' for i, c in
                           enumerate(("#e11", "#1a1", "#11e", "#fc0"))) + "</svg>",
            "four colours",
        ),
        (f"{HEAD}</svg>", "nothing"),
    ],
)  # fmt: skip
def test_what_has_no_main_colour_is_left_alone(svg: str, why: str) -> None:
    assert dye.main_family(svg) is None, why
    assert not list(dyes(Random(0), drawn(svg), 3, 1))


def test_a_build_in_colours(tmp_path: Path) -> None:
    cache, chosen = make_cache(tmp_path / "cache"), {"cat-face": 1.0, "red-apple": 1.0, "automobile": 1.0}
    plan = Plan(
        concepts=chosen,
        one_each=True,
        in_colours=4,
        backgrounds=9,
        dyed={"cat-face": 1.0, "red-apple": 1.0},
        kinds=["dyed"],
    )
    summary = build(tmp_path / "out", plan, cache=cache, sources=["twemoji"])
    found = samples(tmp_path / "out")
    assert summary.kinds.keys() == {"dyed"}
    assert {sample.meta["concept"] for sample in found.values()} == {"cat-face", "red-apple"}
    alone = [sample for sample in found.values() if " background" not in sample.captions[0][1]]
    assert 6 <= len(alone) <= 8  # four each, but for what would not stand out
    assert len(found) - len(alone) <= 2 * 8  # each on two backgrounds at most
    for sample in found.values():
        says = [text for _, text in sample.captions]
        colour = next(name for name in SHADES if name in says[0].split()[1])
        assert all(f"{colour} " in text for text in says)
        assert not any("red apple" in text for text in says)  # "a blue red apple"
        if sample in alone:
            middle = sample.image[128, 128].astype(int)
            assert np.abs(middle - SHADES[colour][1]).max() < 12, (says[0], middle)
