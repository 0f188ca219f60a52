"""Which noun of a prompt a colour or a number belongs to: in "a car with yellow lights" yellow is not the car's.

    unowned("a car with yellow lights", "yellow", {"car"})  # True: "a yellow car" would be untrue
    counted("a 3 legged cat", "three", {"cat"})  # False

Plain Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set

from model.colour_words import COLOUR_WORDS
from model.inference.asking import COLOURS, FUNCTION, NUMBERS, slip
from model.inference.nearest import FOLLOWS
from model.things import WORD, stem

_NEAR = {"blue": ("turquoise", "light blue")}  # shades of which revisers are taught the colour
_TINTS = {  # "blue" -> "navy", "azure", "sky" of "sky-blue" ...
    colour: frozenset(
        stem(word)
        for shade in (colour, *_NEAR.get(colour, ()))
        for words in (shade, *COLOUR_WORDS[shade].replace("-", " ").split())
        for word in words.split()
    )
    for colour in COLOUR_WORDS
}
_INSIDE = frozenset(("colored", "coloured", "plain", "one", "single", "flat"))  # of a noun's words
_SURFACES = "backdrop ground wall floor sky grass lawn carpet rug paper canvas screen surface"
_GROUNDS = frozenset(_SURFACES.split())  # what a background may be called
_PARTS = r"[- ](?:headed|legged|eyed|armed|handed|horned|winged|wheeled|pointed|sided|leaved|tailed)\b|-(?!and\b)\w"


def asks_colour(prompt: str, colour: str) -> bool:
    """Whether a prompt has a word for the colour: "wooden" for "brown"."""
    return any(stem(word) in _TINTS[colour] for word in WORD.findall(prompt))


def unowned(prompt: str, colour: str, name: Set[str]) -> bool:
    """Whether a prompt gives a colour to other nouns than the one whose words, as `stem` has them, are `name`.

    It does so where each of its words for the colour stands before other nouns, and the name somewhere else.
    """
    return _elsewhere(prompt, _TINTS[colour], name)


def grounded(prompt: str, colour: str) -> bool:
    """Whether a prompt asks for a background of this colour: not in "a bird with a yellow beak"."""
    found = [nouns for words in _phrases(prompt) if (nouns := _behind(words, _TINTS[colour])) is not None]
    return any(not nouns or nouns[-1] in _GROUNDS for nouns in found)


def counted(prompt: str, number: str, name: Set[str]) -> bool:
    """Whether a prompt has this number, in words, of a thing: not in "a 3 legged cat", "two men on a sled".

    A number that does not stand in the prompt counts, for it may be there in other words. name: see `unowned`.
    """
    found = list(re.finditer(rf"(?i)(\ban? )?(?<![\w-])(?:{number}|{NUMBERS[number]})\b({_PARTS})?", prompt))
    if found and all(one[1] or one[2] for one in found):
        return False
    return not _elsewhere(prompt, {number, NUMBERS[number]}, name)


def _elsewhere(prompt: str, told: Set[str], name: Set[str]) -> bool:
    """Whether the words `told` stand before other nouns than the name, and the name somewhere else."""
    phrases = list(_phrases(prompt))
    elsewhere = False
    for words in phrases:
        nouns = _behind(words, told)
        if nouns is None:
            continue
        others = [word for other in phrases if other is not words for word in other]
        if not nouns or _meets(nouns, name) or not _meets([*others, *words[: -len(nouns)]], name):
            return False
        elsewhere = True
    return elsewhere


def _behind(words: list[str], told: Set[str]) -> list[str] | None:
    """The words of a phrase that may be nouns, behind the last of `told`; None where none of these stands in it."""
    last = max((i for i, word in enumerate(words) if word in told), default=None)
    return None if last is None else [word for word in words[last + 1 :] if word not in COLOURS and word not in _INSIDE]


def _meets(words: list[str], name: Set[str]) -> bool:
    return any(word == other or slip(word, other) for word in words for other in name)


def _phrases(prompt: str) -> Iterator[list[str]]:
    """The words of a prompt, as `stem` has them, between those that only join and the punctuation."""
    phrase: list[str] = []
    end = 0
    for found in WORD.finditer(prompt):
        word, between = stem(found[0]), prompt[end : found.start()]
        end = found.end()
        joins = (word in FOLLOWS or word in FUNCTION) and word not in _INSIDE and word not in COLOURS
        part = between == "-" and word.endswith("ed") and word not in _INSIDE  # "a red-eyed frog": the eyes are red
        if phrase and (joins or part or between.strip(" -'’")):
            yield [*phrase, word] if part else phrase
            phrase = []
        if not joins and not part:
            phrase.append(word)
    if phrase:
        yield phrase
