"""Emoji are read by their names: single ones, sequences and flags."""

from __future__ import annotations

import pytest

from model.inference.emoji import spoken


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("🍎", "red apple"),
        ("a 🐱 and a 🚗", "a cat and a car"),
        ("🦊", "fox"),
        ("🤔", "thinking face"),
        ("❤️", "red heart"),
        ("👋🏿", "waving hand"),
        ("👨‍🚀", "astronaut"),
        ("👩🏽‍🍳 cooking", "cook cooking"),
        ("👨‍👩‍👧", "family"),
        ("🇫🇷", "flag of france"),
        ("🇬🇧🇺🇸", "flag of the united kingdom flag of the united states"),
        ("🇽🇽", "🇽🇽"),
        ("3️⃣", "number 3"),
        ("a cat,  2 dogs", "a cat,  2 dogs"),
        ("红色的苹果", "红色的苹果"),
        ("", ""),
    ],
)
def test_an_emoji_is_read_by_its_name(text: str, read: str) -> None:
    assert spoken(text).lower() == read
