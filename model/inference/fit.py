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
from itertools import pairwise

from model.config import FitConfig
from model.inference.asking import attribute, code, content, foreign, shared_words, slip, wanted, whole
from model.inference.captions import FLAG, NUMBER, fewer, formed, joined, mended, said_by, things_in
from model.inference.events import Fit
from model.inference.nearest import closest, meant, modifiers, named, names
from model.things import Thing, Things, stems

_SHAPES = frozenset(("oval", "pentagon", "3d", "render"))  # captions have them, and no thing's name
_MEASURES = frozenset(("bottle", "bowl", "cup", "drop", "ear", "glass", "loaf", "plate", "pot"))  # "a loaf of bread"
_SHOWN = 80  # characters of a prompt that a refusal repeats
# Between things that no picture has so near to each other; and a letter of the alphabet, which is no envelope.
_TOUCHING = re.compile(r"(?i)\b(?:on(?! top of| the (?:left|right))|in|at|against|from)\b")
_LETTER = re.compile(r"(?i)\bletter(?:s ['\"“]?[a-z]\b| ['\"“]?(?:[b-hj-z]\b|[ai](?!['”\"]? \w)))(?!')")


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
    nothing. missing_style: the style that was asked for, if it does not know the caption; "" for none.
    """

    fit: Fit
    caption: str
    closest: str
    missing_style: str = ""


def settle(prompt: str, reading: Reading, things: Things, config: FitConfig) -> Verdict:
    """The caption that is painted for the prompt, and how well it says it.

    Where the reviser has not understood a prompt that names a thing in its own words, that thing is painted. For an
    unknown prompt the caption of unknown words is, if the list of things has it: a guess of the reviser that has
    nothing to do with the prompt is not painted.
    """
    caption = mended(wanted(prompt, things), reading.caption, things)
    fit = judge(prompt, replace(reading, caption=caption), things, config)
    thing = named(prompt, things)
    if thing and thing.name != config.unknown and (fit is Fit.UNKNOWN or _nearer(thing, prompt, caption, things)):
        return Verdict(Fit.NEAR, thing.name, thing.name)
    if fit is not Fit.UNKNOWN:
        return Verdict(fit, caption, caption)
    thing = things.find(f"flag of {prompt.strip(' .!?')}") or meant(prompt, things)
    if thing and thing.name != config.unknown:
        return Verdict(Fit.NEAR, thing.name, thing.name)
    painted = config.unknown if things.find(config.unknown) else caption
    return Verdict(fit, painted, closest(prompt, things, config.unknown))


def refusal(field: str, prompt: str, nearest: str) -> str:
    """Why the prompt in this field is not painted, in words. nearest: see `closest`."""
    shown = prompt if len(prompt) <= _SHOWN else f"{prompt[: _SHOWN - 3]}..."
    hint = f". Closest: {nearest}" if nearest else ""
    return f"{field} must be something that the model knows, got '{' '.join(shown.split())}'{hint}"


def judge(prompt: str, reading: Reading, things: Things, config: FitConfig) -> Fit:
    """KNOWN: the caption says all that the prompt says. UNKNOWN: it has nothing to do with it. NEAR: between.

    things: of the checkpoint; an empty list leaves the words and the probabilities.
    """
    text = wanted(prompt, things)
    asked = content(text)
    said = content(reading.caption)
    said_set = set(said)
    shared = shared_words(asked, said)
    strange = [word for word in asked if not attribute(word) and not things.knows(word)]
    if things and (code(prompt) or foreign(prompt, things) or any(_invented(word, asked, things) for word in said)):
        return Fit.UNKNOWN
    unwanted = set(content(whole(prompt))).difference(asked)
    if not formed(reading.caption, things) or not unwanted.isdisjoint(said):
        return Fit.UNKNOWN
    naming = [word for word in shared if not attribute(word) or things.find(word)]  # an orange is a thing too
    if reading.caption.startswith((FLAG, NUMBER)) and len(asked) > 1:
        naming = [word for word in shared if word not in ("flag", "number")]  # another country has a flag too
    things_said = things_in(said_set, things)
    if naming or (shared and not things):
        own = {word for thing in things_said for word in stems(thing.name) if not word.isdigit() and attribute(word)}
        unasked = said_set.difference(shared_words(said, asked), own, _MEASURES)
        complete = len(shared) == len(asked) and not unasked and text == whole(prompt)
        complete &= not (
            fewer(text, reading.caption, things) or (joined(reading.caption, things) and _touching(text, things_said))
        )
        if reading.likely > config.likely:
            return Fit.KNOWN if complete else Fit.NEAR
        guessed = any(map(attribute, unasked)) or not any(_in_full(thing, asked) for thing in things_said)
        return Fit.UNKNOWN if things and guessed else Fit.NEAR
    unknown = reading.caption == config.unknown or [thing.name for thing in things_said] == [config.unknown]
    if unknown or (things and _LETTER.search(text)):
        return Fit.UNKNOWN
    sure = reading.likely > config.sure and reading.doubt < config.doubt
    if not things:
        return Fit.NEAR if sure and not foreign(prompt, things) else Fit.UNKNOWN
    taught = said_by(asked, things_said)
    fits = bool(taught) and reading.likely > config.likely and len(strange) <= len(taught)
    return Fit.NEAR if fits else Fit.UNKNOWN


def _nearer(thing: Thing, prompt: str, caption: str, things: Things) -> bool:
    """Whether a thing that the prompt names is nearer than the caption, whose things it does not name as nouns.

    It is not, where the caption is about nouns before it: "a corgi on a beach" is a dog, "a cardboard house" a house.
    """
    text = wanted(prompt, things)
    asked = content(text)
    last = content(thing.name)[-1]
    first, words = asked.index(last), stems(text)
    until = first + 2 if (last, "of") in pairwise(words) else first + 1  # "a school of fish"
    said = things_in(set(content(caption)), things)
    nouns = {one: noun for one, noun, _ in names(text, things)}
    for one in said:
        before = not _bare(one) or shared_words(asked[:until], _bare(one))
        if before and _in_full(one, asked) and nouns.get(one, True):
            return False
    taught = said_by(asked, said)
    told = modifiers(thing, text)
    return taught <= set(content(thing.name)) or all(asked.index(word) > first or word in told for word in taught)


def _touching(text: str, said: Sequence[Thing]) -> bool:
    """Whether a prompt has its things so near to each other as no picture has them: one on another, or worn by it."""
    worn = " with " in text and any(thing.group == "clothes" for thing in said)
    return worn or bool(_TOUCHING.search(text))


def _bare(thing: Thing) -> list[str]:
    """The words of a thing's name but those that say how it is: ["apple"] for "a red apple"."""
    return [word for word in content(thing.name) if not attribute(word)]


def _in_full(thing: Thing, asked: Sequence[str]) -> bool:
    """Whether a prompt of these words has all of a thing's name."""
    return len(shared_words(_bare(thing), asked)) == len(_bare(thing))


def _invented(word: str, asked: Sequence[str], things: Things) -> bool:
    """Whether a word of a caption is none: no thing has it, and neither has the prompt."""
    return not (attribute(word) or things.knows(word) or word in _SHAPES) and not any(
        word == other or slip(word, other) for other in asked
    )
