"""Where things stand in a picture, and that its captions say so."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from model.drawings import captions, compose
from model.drawings.concepts import everyday, parse_name
from tests.drawings.things import thing


def test_a_pair_stands_as_its_captions_say() -> None:
    for seed in range(20):
        picture = compose.pair(Random(seed), thing("cat-face"), thing("dog-face"), "k")
        (_, cat), (_, dog) = picture.placed
        texts = {text for _, text in picture.captions}
        assert ("a cat to the left of a dog" in texts) == (cat[2] <= dog[0])
        assert ("a cat above a dog" in texts) == (cat[3] <= dog[1])
        assert picture.mirror == (cat[3] <= dog[1])
        assert sum(weight for weight, _ in picture.captions) == pytest.approx(1, abs=0.01)


def test_a_count_shows_as_many_and_none_overlap() -> None:
    for seed in range(30):
        picture = compose.count(Random(seed), thing("cat-face"), "k")
        boxes = [box for _, box in picture.placed]
        word = captions.NUMBERS[len(boxes)]
        assert any(text.startswith(f"{word} cat") for _, text in picture.captions)
        for at, (left, top, right, bottom) in enumerate(boxes):
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1
            for other in boxes[at + 1 :]:
                assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_a_thing_is_the_same_wherever_it_stands_among_so_many() -> None:
    """Squares of one size, apart by whole groups of four tokens: the tokens of one place serve in all."""
    two, three, four = (compose.count(Random(0), thing("cat-face"), "k", number).placed for number in (2, 3, 4))
    pair = compose.pair(Random(0), thing("cat-face"), thing("dog-face"), "k").placed
    cells = {tuple(round(32 * edge, 6) for edge in box) for _, box in (*two, *three, *four, *pair)}
    assert {(right - left, bottom - top) for left, top, right, bottom in cells} == {(14, 14)}
    assert {left % 4 for left, *_ in cells} == {1}
    five = [[32 * edge for edge in box] for _, box in compose.count(Random(0), thing("cat-face"), "k", 5).placed]
    assert {(right - left, bottom - top) for left, top, right, bottom in five} == {(10, 10)}
    assert len({left % 4 for left, *_ in five}) == 1


def test_a_number_is_always_named_but_for_two() -> None:
    texts = {n: [text for _, text in captions.of_count(parse_name("cat"), n)] for n in (2, 3, 4, 5)}
    assert texts[2] == ["two cats", "2 cats", "cats"]
    assert texts[3] == ["three cats", "3 cats"]
    assert "one cat" in [text for _, text in captions.of_single(everyday()["cat-face"], "flat")]
    assert not [text for _, text in captions.of_single(everyday()["grapes"], "flat") if text.startswith("one ")]


def test_captions_that_say_the_style_never_give_the_bare_name() -> None:
    """So "a cat" stays free for another drawing."""
    drawing = replace(thing("cat-face"), style="3d")
    plain, styled = compose.single(drawing), compose.single(drawing, say_style=True)
    assert (plain.kind, styled.kind) == ("single", "styled")
    assert styled.captions[0][1] == "a 3d render of a cat"
    texts = {text for _, text in styled.captions}
    assert {"a 3d cat", "a cat in 3d", "a kitten, 3d render", "a 3d cat face"} <= texts
    assert all("3d" in text.lower() for text in texts)
    assert "a cat" in {text for _, text in plain.captions}
    assert sum(weight for weight, _ in styled.captions) == pytest.approx(1, abs=0.01)
