"""What a prompt asks for: the words that count in it, what it does not want, and whether it is English at all.

    content("draw me TWO cats, please")  # ["2", "cat"]
    wanted("a dog, not a cat", things)  # "a dog, "

Words are compared as `model.things.stem` has them. Plain Python: it knows no captions and no probabilities.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from model.things import WORD, Things, stem, stems

NUMBERS = {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}  # of things that are counted
DIGITS = NUMBERS | {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
COLOURS = frozenset(
    ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "brown", "black", "gray", "white")
)
SHADES = frozenset(("light", "dark", "bright"))
_ASKS_NOTHING = """
    a an the of in on at to with and or is are it its that this these those my your our his her some
    please draw paint make create generate show give me i we you want would like can could to see here
    picture image drawing illustration emoji icon sticker clipart flat design one single colored
    next beside left right above below under over top side by near against front from for background plain thing
"""
# What is left out of a caption without being left out of the picture.
FUNCTION = frozenset(map(stem, _ASKS_NOTHING.split()))
_ARTICLES = "un une le la les du des aux der das dem ein eine einen einem el los il lo gli dei della una uno een um uma"
_OTHERS = "zwei drei vier deux trois quatre cinq tres cuatro und mit auf ist nicht kein keine ich mein avec dans sont"
# What stands near one of them only looks like an English word: "il cane" is no cane, "ein Boot" no boot.
_FOREIGN = frozenset((*_ARTICLES.split(), *_OTHERS.split()))
_ENGLISH = frozenset(("a", "the", "of", "and"))
_GERMAN = re.compile(r"die (?!and |with |on |to |showing )\w")  # an English die has an article before it
_PLAIN_BACKGROUND = re.compile(
    r"(?i)(?:\b(?:on|with|against|in front of) an? |, )(?:plain |clean )*white background\b"
    r"|(?:, )?\b(?:with |on )?(?:no|without an?|without any|without) background\b"
)
_UNWANTED = re.compile(
    r"(?i)\b(?:without|(?:no|not)(?! (?:more|less|fewer|only|just)\b)|never|neither|except|instead of|rather than|"
    r"other than|apart from|minus|lacking|excluding|avoid|(?:do|does|did|is|are|was|were|has|have|can|wo)nt|"
    r"(?:zero|(?<![\w.,-])0)(?= \w)|(?:anything|everything|all) but|"
    r"\w+n['’]t(?! you))\b"
    r"(?:(?!\bbut\b)[^,.;:!?])*|\bnegative prompt:.*"
)
_CODE = re.compile(
    r"\s--?\w+[ =][\"']|[{}\\]|</?[a-zA-Z]|://|\bwww\.|\w@\w|\w\(|\b(?:if|for|while) \([^)]*[<>=]|"
    r"\b(?:SELECT|DROP TABLE|DELETE FROM|UPDATE \w+ SET)\b"
)


def content(text: str) -> list[str]:
    """The words of a text that ask for something, as `stem` has them; numbers as digits."""
    return [digits(word) for word in stems(text) if word not in FUNCTION]


def digits(word: str) -> str:
    """A number in digits, "seven" as "7"; another word as it is."""
    return DIGITS.get(word, word)


def whole(prompt: str) -> str:
    """The prompt without a plain white background, which every picture has."""
    return _PLAIN_BACKGROUND.sub("", prompt)


def wanted(prompt: str, things: Things) -> str:
    """The `whole` prompt without what it does not want, up to a comma or "but": "a car without wheels" -> "a car ".

    A prompt that says one of the things' texts keeps it: "a no entry sign".
    """
    text = whole(prompt)
    return _UNWANTED.sub("", text) if _UNWANTED.search(text) and not _says(text, things) else text


def _says(text: str, things: Things) -> bool:
    """Whether a text says one that a thing is known by, and that sounds as if it did not want something: "not sure"."""
    said = " ".join(stems(text))
    there = {*stems(text), "a", "an"}
    texts = (
        pair
        for thing, named, others in things.stems
        for pair in zip((thing.name, *thing.words), (named, *others), strict=True)
    )
    known = (known for known, words in texts if words <= there and _UNWANTED.search(known))
    bare = (" ".join(stems(re.sub("^an? ", "", text))) for text in known)
    return any(said == text or (" " in text and f" {text} " in f" {said} ") for text in bare)


def foreign(prompt: str, things: Things) -> bool:
    """Whether the prompt has an article of another language, or the like, that no thing has; and none of English."""
    words = set(WORD.findall(prompt.lower()))
    told = words.isdisjoint(_ENGLISH) and not all(map(things.knows, words & _FOREIGN))
    return told or bool(_GERMAN.match(prompt.lower()))


def code(prompt: str) -> bool:
    """Whether the prompt is a piece of a program, an address or the like, whose words name nothing to be drawn."""
    return bool(_CODE.search(prompt))


def attribute(word: str) -> bool:
    """Whether a word says how a thing is, and names none."""
    return word in COLOURS or word in SHADES or word.isdigit()


def shared_words(asked: Sequence[str], said: Sequence[str]) -> list[str]:
    """The words of a prompt that a caption has too, perhaps spelled a little differently."""
    return [word for word in asked if word in said or any(slip(word, other) for other in said)]


def slip(word: str, other: str) -> bool:
    """Whether two words of five letters or more differ by one letter: missing, added, wrong, or two swapped."""
    if min(len(word), len(other)) < 4 or max(len(word), len(other)) < 5 or abs(len(word) - len(other)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(word, other, strict=False)) if a != b), min(len(word), len(other)))
    if start == 0:
        return False
    a, b = word[start:], other[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
