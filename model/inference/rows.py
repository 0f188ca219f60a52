"""Names of things in a row, said as captions say them: "fox and tree", "fox emoji, tree emoji" -> "a fox and a tree".

The reviser was taught pairs with their articles. Of bare names it hears one.
"""

from __future__ import annotations

import re

from model.things import Things

_BETWEEN = re.compile(r"\s*(?:[,&+]|\band\b|\bemojis?\b)\s*")


def joined(text: str, things: Things) -> str:
    """The names with their articles and "and", if the text is a row of names and nothing else; else the text."""
    parts = [part for part in _BETWEEN.split(text.lower().strip()) if part]
    row = [thing for part in parts if (thing := things.find(part))]
    return " and ".join(thing.name for thing in row) if 1 < len(parts) == len(row) else text
