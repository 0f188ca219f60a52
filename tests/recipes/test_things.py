"""things.json has the emoji that show each thing."""

from __future__ import annotations

import json
from pathlib import Path

from model.drawings.concepts import everyday
from model.recipes.default.commands.things import emoji_of, written
from model.recipes.default.corpus.emoji import Index
from model.things import parse

EMOJI = {"cat face": ("1F431", 3), "cat": ("1F408", 3), "black cat": ("1F408-200D-2B1B", 3), "sun": ("2600-FE0F", 5)}


def test_a_thing_has_its_own_emoji_and_those_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    entries = [{"label": label, "hexcode": code, "group": group} for label, (code, group) in EMOJI.items()]
    (tmp_path / "en" / "data.json").write_text(json.dumps(entries))
    concepts = [everyday()[slug] for slug in ("cat-face", "black-cat", "sun", "dog-face")]
    emoji = emoji_of(concepts, Index(tmp_path))
    assert emoji == {"cat-face": ["1f431", "1f408"], "black-cat": ["1f408-200d-2b1b"], "sun": ["2600"], "dog-face": []}
    things = parse(written(concepts, emoji))
    for shown, name in (("🐱", "a cat"), ("🐈", "a cat"), ("🐈\u200d⬛", "a black cat"), ("☀\ufe0f", "the sun")):
        found = things.of_emoji(shown)
        assert found is not None
        assert found.name == name
        assert things.search(shown) == [found]
    assert things.of_emoji("🐶") is None
