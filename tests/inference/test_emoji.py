"""Emoji are read by the names of the checkpoint's things: single ones, rows, sequences and flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.inference.emoji import spoken
from model.inference.rows import joined
from model.things import THINGS, Things, parse

WEIGHTS = Path(__file__).parents[2] / "weights" / "default"


@pytest.fixture(scope="module")
def things() -> Things:
    return parse((WEIGHTS / THINGS).read_bytes())


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("🍎", "a red apple"),
        ("🏠", "a house"),  # to Unicode a HOUSE BUILDING
        ("☕️", "a cup of coffee"),
        ("a 🐱 and a 🚗", "a cat and a car"),
        ("🦊🌲", "a fox and an evergreen tree"),
        ("🦊 + 🌲 on a hill", "a fox and an evergreen tree on a hill"),
        ("🐱🐱", "two cats"),
        ("🐶🐶🐱", "two dogs and a cat"),
        ("🐶" * 6, "6 dogs"),
        ("two 🐶", "two dogs"),
        ("3 🍎", "3 red apples"),
        ("a cute 🐶", "a cute dog"),
        ("a cat 😂", "a cat, a laughing face"),
        ("a cat 🐱", "a cat"),
        ("a bobcat 🐱", "a bobcat cat"),
        ("❤️", "a red heart"),
        ("👋🏿", "a waving hand"),
        ("👨‍🚀", "an astronaut"),
        ("👩🏽‍🍳 cooking", "a cook cooking"),
        ("🐈‍⬛", "a black cat"),
        ("🐻‍❄️", "a polar bear"),
        ("🏴‍☠️", "a pirate flag"),
        ("👩‍🦰", "a woman"),
        ("👨‍👩‍👧", "a family"),
        ("👩‍❤️‍👨", "a couple with a heart"),
        ("🇫🇷", "the flag of france"),
        ("🇬🇧🇺🇸", "the flag of the united kingdom and the flag of the united states"),
        ("🇽🇽", "🇽🇽"),
        ("🏳️‍⚧️", "🏳️‍⚧️"),  # no white flag
        ("3️⃣", "a number three"),
        ("🤣", "rolling on the floor laughing"),  # no thing's emoji: by its Unicode name
        ("a cat,  2 dogs → ™", "a cat,  2 dogs → ™"),
        ("红色的苹果", "红色的苹果"),
        ("", ""),
    ],
)
def test_an_emoji_is_read_by_its_name(things: Things, text: str, read: str) -> None:
    assert spoken(text, things) == read


def test_without_a_list_of_things_emoji_are_read_by_their_unicode_names() -> None:
    assert spoken("🍎🐱", Things()) == "red apple and cat"
    assert spoken("🇫🇷", Things()) == "🇫🇷"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("fox and tree", "a fox and a tree"),
        ("Fox emoji tree emoji", "a fox and a tree"),
        ("cats & dogs", "a cat and a dog"),
        ("a cat, a house", "a cat and a house"),
        ("grapes, a red apple", "grapes and a red apple"),
        ("salt and pepper", "salt and pepper"),  # these are no things
        ("a big fox and a tree", "a big fox and a tree"),
        ("a cat", "a cat"),
        ("**a cat**", "a cat"),
        ("'Cats'!", "cats"),
        ('["cat", "dog"]', "a cat and a dog"),
        ("A cat! A dog.", "a cat and a dog"),
        ("cat/dog", "a cat and a dog"),
        ("cats' dogs", "cats' dogs"),
        ("cat -> dog", "cat -> dog"),
        ("{cat}", "{cat}"),
        (" , ", " , "),
    ],
)
def test_names_in_a_row_are_joined(things: Things, text: str, read: str) -> None:
    assert joined(text, things) == read
