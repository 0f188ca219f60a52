"""How well a caption says a prompt: known, near or unknown. So an answer can say what its pictures leave out.

    settle("a kitten", Reading("a cat", -0.01, -11.6), things, FitConfig())  # near, "a cat"

A reviser makes a caption of any text. Three things tell whether the caption has to do with the text: words that both
have; the checkpoint's list of things, which tells the words that the reviser was taught for each; and the reviser's own
probabilities. Plain Python: it knows no tensors and no token ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from model.config import FitConfig
from model.inference.events import Fit
from model.things import Thing, Things, stem, stems

NUMBERS = {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
COLOURS = frozenset(
    ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "brown", "black", "gray", "white")
)
_SHAPES = frozenset(("oval", "pentagon", "3d", "render"))  # captions have them, and no thing's name
_SHADES = frozenset(("light", "dark", "bright"))
_ASKS_NOTHING = """
    a an the of in on at to with and or is are it its that this these those my your our his her some
    please draw paint make create generate show give me i we you want would like can could to see here
    picture image drawing illustration emoji icon sticker clipart flat design one single colored
    next beside left right above below under over top side by near against front from for background plain thing
"""
# What is left out of a caption without being left out of the picture.
_FUNCTION = frozenset(map(stem, _ASKS_NOTHING.split()))
_ARTICLES = "un une le la les des der das den dem ein eine einen el il lo gli una uno een het uma"
_FOREIGN = frozenset(_ARTICLES.split())  # what stands behind one only looks like an English word: "il cane" is no cane
_GERMAN = re.compile(r"die (?!and |with |on |to |showing )\w")  # an English die has an article before it
_FLAG = "the flag of "
_PLAIN_BACKGROUND = re.compile(r"\b(on|with|against|in front of) an? (plain |clean )*white background\b")
_JOINTS = re.compile(r"( and | above | below | next to | beside | to the left of | to the right of )")
_SHOWN = 80  # characters of a prompt that a refusal repeats
_LONG = 4  # letters of a word that `closest` may correct, at least
_ALIKE = 0.8  # how much two words must be alike for `closest`, 0 to 1 (difflib)
_COUNTED = re.compile(rf"({'|'.join(list(NUMBERS)[1:])}) (.+)")
_BACKGROUND = re.compile(r"(.+?)( on an? .+ background)?")


@dataclass(frozen=True)
class Reading:
    """What a reviser made of a prompt.

    caption: what it says. likely: log-probability of that, in nats. doubt: log-probability of the caption that stands
    for unknown words.
    """

    caption: str
    likely: float
    doubt: float


@dataclass(frozen=True)
class Verdict:
    """What is made of a prompt.

    fit: how well the caption says it. caption: what is painted. closest: what the model knows that is nearest; "" for
    nothing.
    """

    fit: Fit
    caption: str
    closest: str


def settle(prompt: str, reading: Reading, things: Things, config: FitConfig) -> Verdict:
    """The caption that is painted for the prompt, and how well it says it.

    For an unknown prompt that is the caption of unknown words, if the list of things has it: a guess of the reviser
    that has nothing to do with the prompt is not painted.
    """
    caption = truthful(_asked_for(prompt, reading.caption, things), things)
    fit = judge(prompt, replace(reading, caption=caption), things, config)
    if fit is not Fit.UNKNOWN:
        return Verdict(fit, caption, caption)
    return Verdict(
        fit, config.unknown if things.find(config.unknown) else caption, closest(prompt, things, config.unknown)
    )


def refusal(field: str, prompt: str, nearest: str) -> str:
    """Why the prompt in this field is not painted, in words. nearest: see `closest`."""
    shown = prompt if len(prompt) <= _SHOWN else f"{prompt[: _SHOWN - 3]}..."
    hint = f". Closest: {nearest}" if nearest else ""
    return f"{field} must be something that the model knows, got '{' '.join(shown.split())}'{hint}"


def judge(prompt: str, reading: Reading, things: Things, config: FitConfig) -> Fit:
    """KNOWN: the caption says all that the prompt says. UNKNOWN: it has nothing to do with it. NEAR: between.

    things: of the checkpoint; an empty list leaves the words and the probabilities.
    """
    asked = _content(_PLAIN_BACKGROUND.sub("", prompt.lower()))
    said = _content(reading.caption)
    said_set = set(said)
    shared = [word for word in asked if word in said_set or any(_slip(word, other) for other in said)]
    if things and any(_invented(word, asked, things) for word in said):
        return Fit.UNKNOWN
    naming = [word for word in shared if not _attribute(word) or things.find(word)]  # an orange is a thing too
    if reading.caption.startswith(_FLAG) and len(asked) > 1:
        naming = [word for word in naming if word != "flag"]  # another country has a flag too
    things_said = _things_in(said_set, things)
    if (naming or (shared and not things)) and not _GERMAN.match(prompt.lower()):
        unasked = {word for word in said_set - set(asked) if _attribute(word)}
        own = {word for thing in things_said for word in stems(thing.name)}
        complete = len(shared) == len(asked) and unasked <= own
        return Fit.KNOWN if complete and reading.likely > config.likely else Fit.NEAR
    if reading.caption == config.unknown or _foreign(prompt, asked):
        return Fit.UNKNOWN
    sure = reading.likely > config.sure and reading.doubt < config.doubt
    if not things:
        return Fit.NEAR if sure else Fit.UNKNOWN
    taught = _taught(things_said, asked)
    strange = [word for word in asked if not _attribute(word) and not things.knows(word)]
    fits = bool(taught) and reading.likely > config.likely and len(strange) <= len(taught)
    return Fit.NEAR if fits else Fit.UNKNOWN


def closest(prompt: str, things: Things, unknown: str) -> str:
    """The name of the thing that shares most words with the prompt, or is spelled most like one; "" for none.

    unknown: the caption of unknown words, which is never close to anything.
    """
    content = _content(prompt.lower())
    if _foreign(prompt, content):  # its words mean something else
        return ""
    asked = [word for word in content if not _attribute(word)]
    best, name = 0.5, ""  # most of a text's words must be in the prompt
    for thing, named, texts in things.stems:
        for words in (named - _FUNCTION, *(text - _FUNCTION for text in texts)):
            share = len(words.intersection(asked)) / len(words) if words else 0.0
            if share > best and thing.name != unknown:
                best, name = share, thing.name
    return name or _spelled_like(asked, things)


def _spelled_like(asked: Sequence[str], things: Things) -> str:
    """The name of the thing of one word that is spelled most like a word of the prompt; "" for none."""
    names = {words[0]: thing.name for thing in reversed(things.things) if len(words := _content(thing.name)) == 1}
    for word in asked:
        alike = get_close_matches(word, (name for name in names if name[0] == word[0]), 1, _ALIKE)
        if alike and len(word) >= _LONG:
            return names[alike[0]]
    return ""


def truthful(caption: str, things: Things) -> str:
    """The caption without colours that the painter cannot paint: "a yellow car and a tree" -> "a car and a tree".

    A painter learns a thing in other colours alone and on a background, never beside another thing or counted. There a
    colour stays only if it belongs to a thing's name: "a red apple". Without a list of things the caption stays.
    """
    if not things:
        return caption
    parts = _JOINTS.split(caption)
    if len(parts) == 1 and not _COUNTED.fullmatch(caption):
        return caption
    return "".join(part if i % 2 else _uncoloured(part, things) for i, part in enumerate(parts))


def _uncoloured(part: str, things: Things) -> str:
    """One thing of a caption, perhaps counted, without a colour that is not in its name."""
    found = _BACKGROUND.fullmatch(part)
    assert found
    thing, background = found[1], found[2] or ""
    counted = _COUNTED.fullmatch(thing)
    number, name = (counted[1], counted[2]) if counted else ("", thing)
    if things.find(name):
        return part
    bare = re.sub(r"^(an?|the) ", "", name)
    first, _, rest = bare.partition(" ")
    if first in _SHADES:
        first, _, rest = rest.partition(" ")
    known = things.find(rest) if stem(first) in COLOURS and rest else None
    if known is None:
        return part
    return f"{number} {rest}{background}" if number else f"{known.name}{background}"


def _asked_for(prompt: str, caption: str, things: Things) -> str:
    """The caption without a half that the prompt does not ask for, and a country as its flag, which can be painted.

    "a face and a cat" -> "a cat" for "a cat under a table". "a france" -> "the flag of france".
    """
    if flag := things.find(f"flag of {re.sub('^(an?|the) ', '', caption)}"):
        return flag.name
    if things.find(caption):
        return caption
    asked = _content(prompt.lower())
    for joint in _JOINTS.finditer(caption):
        halves = caption[: joint.start()], caption[joint.end() :]
        wanted = [half for half in halves if _asks(asked, half, things)]
        if all(map(things.find, halves)) and len(wanted) == 1:
            return wanted[0]
    return caption


def _asks(asked: Sequence[str], half: str, things: Things) -> bool:
    """Whether a prompt asks for one thing of a caption: by a word of its name, or by one that it was taught for."""
    said = [word for word in _content(half) if not _attribute(word)]
    if any(word == other or _slip(word, other) for word in asked for other in said):
        return True
    return bool(_taught(_things_in(set(_content(half)), things), asked))


def _invented(word: str, asked: Sequence[str], things: Things) -> bool:
    """Whether a word of a caption is none: no thing has it, and neither has the prompt."""
    return not (_attribute(word) or things.knows(word) or word in _SHAPES) and not any(
        word == other or _slip(word, other) for other in asked
    )


def _foreign(prompt: str, asked: Sequence[str]) -> bool:
    """Whether the prompt has an article of another language."""
    return not _FOREIGN.isdisjoint(asked) or bool(_GERMAN.match(prompt.lower()))


def _taught(said: Sequence[Thing], asked: Sequence[str]) -> set[str]:
    """The words of a prompt that these things were taught for, by texts of which the prompt has all words."""
    texts = [set(_content(text)) for thing in said for text in thing.words]
    return {word for words in texts if words.issubset(asked) for word in words}


def _content(text: str) -> list[str]:
    """The words of a text that ask for something, as `stem` has them; numbers as digits."""
    return [NUMBERS.get(word, word) for word in stems(text) if word not in _FUNCTION]


def _attribute(word: str) -> bool:
    """Whether a word says how a thing is, and names none."""
    return word in COLOURS or word in _SHADES or word.isdigit()


def _slip(word: str, other: str) -> bool:
    """Whether two words of five letters or more differ by one letter: missing, added, wrong, or two swapped."""
    if min(len(word), len(other)) < 4 or max(len(word), len(other)) < 5 or abs(len(word) - len(other)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(word, other, strict=False)) if a != b), min(len(word), len(other)))
    if start == 0:
        return False
    a, b = word[start:], other[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])


def _things_in(said: set[str], things: Things) -> list[Thing]:
    """The things whose whole name is among these words."""
    return [
        thing for thing, named, _ in things.stems if all(NUMBERS.get(word, word) in said for word in named - _FUNCTION)
    ]
