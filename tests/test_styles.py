"""The rule of styles: how captions say them, and which style a picture of a request has."""

from __future__ import annotations

from collections import Counter

import pytest

from model.config import Style
from model.drawings.captions import of_styled
from model.drawings.concepts import everyday
from model.errors import CheckpointError, InvalidRequest
from model.inference.texts import place
from model.styles import NO_STYLES, THING, Choice, Styles, bare, parse_things, rendered, styled, things_file

THREE = Styles(
    (Style("flat"), Style("3d", "3d", "3d.txt"), Style("old", "old", "old.txt")),
    (None, ("cat", "sun", "grapes", "apple"), ("cat", "oak")),
)


@pytest.mark.parametrize("slug", ["cat", "red-apple", "sun", "grapes", "octopus"])
def test_a_styled_caption_is_one_that_training_says(slug: str) -> None:
    concept = everyday()[slug]
    taught = [text for _, text in of_styled(concept, "3d")]
    assert taught[0] == rendered(concept.names[0].full, "3d")  # what a reviser learns to say
    for name in concept.names:
        assert styled(bare(name.full), "3d") in taught


def test_articles_fit_the_words() -> None:
    assert [bare(text) for text in ("a cat", "an apple", "the sun", "grapes", "a", "theatre")] == [
        "cat", "apple", "sun", "grapes", "a", "theatre",
    ]  # fmt: skip
    assert styled("apple", "3d") == "a 3d apple"
    assert styled("cat", "old") == "an old cat"
    assert rendered("the sun", "old") == "an old render of the sun"


def test_pictures_go_round_the_styles_that_know_their_thing() -> None:
    def said(text: str, style: str = "auto", place: int = 0) -> list[str]:
        return [THREE.choose(text, style, place, index).text for index in range(4)]

    assert said("a cat") == ["a cat", "a 3d cat", "an old cat", "a cat"]
    assert said("a cat", place=2) == ["an old cat", "a cat", "a 3d cat", "an old cat"]
    assert said("the sun") == ["the sun", "a 3d sun"] * 2
    for unknown in ("two cats", "a red cat", "a cat on a blue background", "a cat and an oak", ""):
        assert THREE.choose(unknown, index=1) == Choice("flat", unknown)
        assert THREE.choose(unknown, "3d") == Choice("flat", unknown)
    assert said("an apple", "3d") == ["a 3d apple"] * 4
    assert said("an apple", "old") == said("an apple", "flat") == ["an apple"] * 4


def test_a_text_that_names_a_style_stays_in_it() -> None:
    for style in ("auto", "flat", "3d", "old"):
        for index in range(3):
            assert THREE.choose("a 3d cat", style, index=index) == Choice("3d", "a 3d cat")
            assert THREE.choose("an old render of a cat", style, index=index).style == "old"
    assert THREE.choose("a 3d oak", "3d") == Choice("flat", "a 3d oak")  # 3d does not know it
    assert THREE.canonical("a 3d render of the sun") == "a 3d sun"
    for other in ("a 3d cat", "a cat", ""):
        assert THREE.canonical(other) == other
    for unknown in ("a 3d render of an oak", "a 3d oak"):  # 3d does not know it: painted so, it would be torn
        assert THREE.canonical(unknown) == "an oak"


def test_a_prompt_that_says_a_styles_word_asks_for_it() -> None:
    prompts = {"a shiny 3D train": "3d", "a cat, 3d.": "3d", "old cats": "old", "a gold 3ds": "auto", "": "auto"}
    assert {prompt: THREE.asked_in(prompt) for prompt in prompts} == prompts
    assert NO_STYLES.asked_in("a 3d cat") == "auto"


def test_a_style_is_missing_where_it_was_asked_for_and_does_not_know_the_thing() -> None:
    assert THREE.wanted("a cat in 3d", "auto") == THREE.wanted("a cat in 3d", "old") == "3d"
    assert THREE.wanted("a cat", "old") == "old"
    asked = {"a cat": "3d", "an oak": "3d", "two cats": "3d", "the sun": "old", "a dog": "flat", "an owl": "auto"}
    assert {text: THREE.missing(text, style) for text, style in asked.items()} == {
        "a cat": "", "an oak": "3d", "two cats": "3d", "the sun": "old", "a dog": "", "an owl": "",
    }  # fmt: skip
    assert NO_STYLES.missing("a cat", "auto") == ""


def test_a_text_of_ones_own_is_left_alone_unless_a_style_is_asked_for() -> None:
    assert THREE.choose("a cat", index=1, reworded=False) == Choice("flat", "a cat")
    assert THREE.choose("a cat", "3d", reworded=False) == Choice("3d", "a 3d cat")
    assert THREE.choose("A CAT", "3d", reworded=False) == Choice("flat", "A CAT")


def test_a_checkpoint_without_styles_has_nothing_to_choose() -> None:
    assert NO_STYLES.choose("a cat", index=1) == Choice("", "a cat")
    one = Styles((Style("flat"),), (None,))
    assert {one.choose("a cat", style, index=i) for style in ("auto", "flat") for i in range(4)} == {
        Choice("flat", "a cat")
    }
    assert (NO_STYLES.several, one.several, THREE.several) == (False, False, True)


def test_an_unknown_style_is_refused_with_those_there_are() -> None:
    for style in ("auto", "flat", "3d", "old"):
        THREE.check(style)
    with pytest.raises(InvalidRequest, match=r"^style must be one of auto, flat, 3d, old, got 'glossy'$") as caught:
        THREE.check("glossy")
    assert caught.value.field == "style"
    NO_STYLES.check("auto")
    with pytest.raises(InvalidRequest, match=r"^style must be auto for a model without styles, got '3d'$"):
        NO_STYLES.check("3d")


def test_seeds_begin_at_every_style_alike() -> None:
    for styles in (2, 3, 6):
        counts = Counter(place(seed) % styles for seed in [*range(1500), *range(2**62, 2**62 + 1500)])
        assert len(counts) == styles
        assert all(abs(count / 3000 - 1 / styles) < 0.04 for count in counts.values())
    assert place(7) == place(7)


def test_a_file_of_things_is_read_as_it_was_written() -> None:
    things = ("cat", "red apple", "Bäume", "four o'clock")
    assert parse_things(things_file(things), "things.txt") == things
    assert parse_things(b"cat\nsun", "things.txt") == ("cat", "sun")
    for data, line in (
        (b"", "line 1 must be the name of a thing of 1 to 128 printable characters without blanks around it, got ''"),
        (b"cat\n\nsun\n", "line 2 must be "),
        (b"cat\r\nsun\r\n", r"line 1 must be .*, got 'cat\\r'"),
        (b" cat\n", "line 1 must be "),
        (b"\x1b[2J\n", "line 1 must be "),
        (b"x" * (THING + 1), "line 1 must be .* of 129 characters"),
        (b"cat\nsun\ncat\n", "line 3 names 'cat' again"),
        (b"\xff\xfe", "not a list of things in UTF-8"),
    ):
        with pytest.raises(CheckpointError, match=rf"^things\.txt: {line}") as caught:
            parse_things(data, "things.txt")
        assert str(caught.value).isprintable()
