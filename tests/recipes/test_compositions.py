"""Which pictures are made of many drawings."""

from __future__ import annotations

from random import Random

import pytest

from model.drawings import compose
from model.drawings.concepts import everyday
from model.recipes.default.corpus import compositions
from tests.drawings.things import thing


def test_another_seed_gives_other_compositions() -> None:
    drawings = [thing(slug) for slug in ("cat-face", "dog-face", "bus")]
    one, same, other = (
        list(compositions.compositions(Random(seed), drawings, compositions.SHARES["common"])) for seed in (1, 1, 2)
    )
    assert one == same != other


def test_compositions_call_a_thing_by_all_its_names_and_mostly_by_the_first() -> None:
    """ "two apples" is as good a prompt as "two red apples": both name the drawing."""
    apple, car = thing("red-apple"), thing("automobile")
    count, background = compose.count(Random(0), apple, "k", 2), compositions.background(Random(0), car, "k")
    beside = next(p for n in range(20) if not (p := compose.pair(Random(n), apple, car, "k")).mirror)
    for picture, first, other in (
        (count, "two red apples", "two apples"),
        (background, "a car on", "a red car on"),
        (beside, "a red apple and a car", "an apple and a red car"),
        (compositions.place(Random(0), car, "k"), "a small car", "a small red car"),
    ):
        shares = {text: share for share, text in picture.captions}
        said = {
            wanted: sum(share for text, share in shares.items() if text.startswith(wanted)) for wanted in (first, other)
        }
        assert said[first] > 2 * said[other] > 0, picture.captions
        assert picture.captions[0][1].startswith(first)  # the evaluation reads a composition by its first caption
        assert sum(shares.values()) == pytest.approx(1, abs=0.01)


def test_no_two_pairs_show_the_same_two_things() -> None:
    drawings = [thing(slug, source) for slug in ("cat-face", "dog-face", "cat", "bus", "apple") if slug in everyday()
                for source in ("noto", "twemoji")]  # fmt: skip
    made = list(compositions.compositions(Random(0), drawings, {"background": 1, "pair": 5, "count": 1, "place": 1}))
    pairs = [frozenset(name.split("+")) for name in (p.concept for p in made if p.kind == "pair")]
    shown = {frozenset(everyday()[slug].names[0].text for slug in pair) for pair in pairs}
    assert len(shown) == len(pairs) == 3  # cat, dog, bus: the cat and its face have one name
    assert not any(p.mirror for p in made if p.kind == "place" and "left" in p.captions[0][1])
