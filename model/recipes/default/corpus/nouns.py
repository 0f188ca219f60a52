"""Says which nouns can be drawn, by their subject in WordNet, and finds such nouns in the file names of icons.

WordNet (Fellbaum 1998) puts every sense of a noun under one of 25 subjects. A noun can be drawn if its most frequent
sense is an animal, an artifact, a part of the body, food, a natural object or a plant. No text of WordNet gets into the
corpus.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from model.drawings.lists import words

from .packages import Package

WORDNET = Package("deb", "wordnet-base")

# lexicographer files 05 animal, 06 artifact, 08 body, 13 food, 17 object, 20 plant (wordnet: lexnames(5WN))
_PICTURABLE = frozenset(("05", "06", "08", "13", "17", "20"))

# Suffixes of icon names for style, size and number.
_SUFFIX = re.compile(
    r"-(outline|outlined|filled|fill|solid|bold|light|thin|regular|duotone|twotone|two-tone|duo|flat|line|linear|broken"
    r"|rounded|round|sharp|alt|alternate|variant|color|colors|colour|\d+px|\d+|one|two|three|four|v\d|negative"
    r"|black|white|simple|small|large|mini|square|circle|icon)$"
)


def clean_slug(slug: str) -> str:
    """An icon's file name without suffixes for style, size and number: "apple-2-flat" -> "apple"."""
    previous = ""
    while previous != slug:
        previous, slug = slug, _SUFFIX.sub("", slug)
    return slug


@cache
def picturable(root: Path) -> frozenset[str]:
    """The nouns, also of several words ("fire engine"), whose first sense in WordNet can be drawn."""
    folder = root / "usr" / "share" / "wordnet"
    subjects: dict[str, str] = {}
    with (folder / "data.noun").open(encoding="utf-8") as lines:
        for line in lines:
            offset, subject, _ = line.split(" ", 2)  # the licence at the top is indented: its offset is empty
            if offset:
                subjects[offset] = subject
    nouns = set()
    with (folder / "index.noun").open(encoding="utf-8") as lines:
        for line in lines:
            if not line.startswith(
                " "
            ):  # lemma, "n", number of senses, ..., offsets of the senses, most frequent first
                fields = line.split()
                if subjects[fields[-int(fields[2])]] in _PICTURABLE:
                    nouns.add(fields[0].replace("_", " "))
    return frozenset(nouns)


def _singular(word: str) -> str:
    for ending, stem in (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("sses", "ss"), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            return word.removesuffix(ending) + stem
    return word


def noun_of(slug: str, nouns: frozenset[str]) -> str | None:
    """What an icon shows: "ice-cream-2-flat" -> "ice cream". None if its name is no noun that can be drawn.

    The name must be one such noun of one to three words ("fire engine"), or two such nouns ("apple tree").
    """
    parts = clean_slug(slug).split("-")
    if not 1 <= len(parts) <= 3 or not all(part.isalpha() and len(part) > 2 for part in parts):
        return None
    text = " ".join(parts)
    if text in nouns or " ".join((*parts[:-1], _singular(parts[-1]))) in nouns:
        return None if text in words("interface", __package__) else text
    known = all(part in nouns or _singular(part) in nouns for part in parts)
    return text if len(parts) == 2 and known and words("interface", __package__).isdisjoint(parts) else None
