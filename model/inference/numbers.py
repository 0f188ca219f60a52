"""Numbers of things as captions say them, five at most: "7 cats" is read as "five cats", "2cats" as "2 cats"."""

from __future__ import annotations

import re

from model.inference.asking import DIGITS
from model.plurals import plural
from model.things import Things, stem

_MANY = (
    r"(?:[6-9]|[1-9]\d+|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|"
    r"nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|"
    r"(?:(?:a|one|two|three|four|five|six|seven|eight|nine|ten|\d+) )?(?:dozen|hundred|thousand|million)|"
    r"(?:dozens|hundreds|thousands|millions) of)"
)
_MORE = rf"(?:[ -](?:and )?(?:one|two|three|four|five|{_MANY}))*"  # "twenty five", "a hundred and one"
_COUNTED = re.compile(rf"(?i)(?<![\w.,:-]){_MANY}{_MORE}(?= ((?:\w+ )?)(\w+)\b)")
_NUMERAL = re.compile(r"(?i)\s*(?:an?|the)?\s*(?:numbers?|digits?|numerals?|figures?)?\s*#?(\w+)\s*[.!]?\s*")
_WORDS = ("zero", *DIGITS)
_GLUED = re.compile(r"\b(\d+)([^\W\d_]{3,})\b")


def unglued(text: str, things: Things) -> str:
    """The text with a blank between a number and a word that things have: "1girl" -> "1 girl", and "80mph" stays."""
    return _GLUED.sub(lambda found: " ".join(found.groups()) if things.knows(stem(found[2])) else found[0], text)


def numeral(text: str, things: Things) -> str:
    """The name of the thing that shows a number, for a text of this alone: "7" -> "a number seven"."""
    found = _NUMERAL.fullmatch(text)
    said = found[1].lower() if found else ""
    word = _WORDS[int(said)] if said.isdecimal() and int(said) < len(_WORDS) else said
    thing = things.find(f"number {word}") if word in _WORDS else None
    return thing.name if thing else text


def at_most_five(text: str, things: Things) -> str:
    """The text with "five" for every greater number of a thing: "10 red cars" -> "five red cars"."""

    def five(found: re.Match[str]) -> str:
        between, noun = found[1], found[2]
        first = between.strip()
        many = first if first and _plural(first, things) else noun
        return "five" if _plural(many, things) else found[0]

    return _COUNTED.sub(five, text)


def _plural(word: str, things: Things) -> bool:
    thing = things.find(word)
    alike = thing is not None and plural(thing.bare) == thing.bare  # "sheep"
    return alike or (stem(word) != word.lower() and things.knows(stem(word)))
