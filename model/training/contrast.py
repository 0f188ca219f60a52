"""What a caption says and does not say of a picture: which pairs of a batch may both be true, and captions made false.

Pictures and texts of one batch are told apart by contrast, so a text that happens to fit another picture of the batch
must not count against it; and a text in which one word is wrong teaches what a random other text never does: without
such texts a CLIP reads a bag of words (Yuksekgonul et al., 2210.01936).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from model.training.data import Captions, Uniform

_WORD = re.compile(r"\w+")
# Words of which one excludes the others, where they say the same of the same thing.
RIVALS: tuple[tuple[str, ...], ...] = (
    ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "brown", "gray", "black", "white"),
    ("left", "right"),
    ("top", "bottom"),
    ("above", "below"),
    ("two", "three", "four", "five"),
    ("2", "3", "4", "5"),
)
_OTHERS = {word: tuple(other for other in group if other != word) for group in RIVALS for word in group}


def words(text: str) -> frozenset[str]:
    """The words of a caption, small letters."""
    return frozenset(_WORD.findall(text.lower()))


def told(captions: Captions) -> frozenset[str]:
    """Every word that any caption of a picture says of it."""
    return frozenset().union(*(words(text) for _, text in captions))


def may_fit(caption: frozenset[str], concept: str | None, picture: frozenset[str], shown: str | None) -> bool:
    """Whether a text may be true of a picture that it was not written for.

    caption, concept: the text's words, and what its own picture shows. picture, shown: all words told of the other
    picture, and what it shows. "a heart" fits a red heart, and any caption of a concept may fit its other drawings.
    """
    return (concept is not None and concept == shown) or caption <= picture


def falsify(text: str, random: Uniform) -> str | None:
    """The caption with one of its colours, sides or numbers replaced by a rival; None where it names none.

    "a red apple on the left" -> "a red apple on the right", or "a pink apple on the left".
    """
    places = [match for match in _WORD.finditer(text) if match[0].lower() in _OTHERS]
    if not places:
        return None
    place = places[int(random.random() * len(places))]
    rivals = _OTHERS[place[0].lower()]
    return text[: place.start()] + rivals[int(random.random() * len(rivals))] + text[place.end() :]


def concept_of(line: Mapping[str, Any]) -> str | None:
    """What the picture of a line of captions.jsonl shows, where it is said."""
    concept = line.get("concept")
    return None if concept is None else str(concept)
