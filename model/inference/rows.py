"""Names of things in a row, said as captions say them: "fox and tree", "fox emoji, tree emoji" -> "a fox and a tree".

The reviser was taught pairs with their articles. Of bare names it hears one, and of marks nothing: "**a cat**".
"""

from __future__ import annotations

import re

from model.things import Things

_BETWEEN = re.compile(r"\s*(?:[,;&+/|.!?]|\band\b|\bemojis?\b)\s*")
_MARKS = " *#-_~`\"'()[]“”‘’"  # around a name


def joined(text: str, things: Things) -> str:
    """The names with their articles and "and", if the text is a row of names and nothing else; else the text.

    A name alone stays as it is, without the marks around it.
    """
    parts = [part for marked in _BETWEEN.split(text.lower()) if (part := marked.strip(_MARKS))]
    row = [thing for part in parts if (thing := things.find(part))]
    if not row or len(parts) > len(row):
        return text
    return parts[0] if len(row) == 1 else " and ".join(thing.name for thing in row)
