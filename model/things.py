"""The list of things that a checkpoint paints, with the words that its reviser knows for each: things.json.

    things = parse(data, "things.json")
    things.find("a cat").name  # "a cat"

A checkpoint may have this file. It says which captions are true, and what a prompt can ask for. Knows no tensors.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from annotated_types import Len

from model.errors import CheckpointError
from model.files import parse_json
from model.limits import build, shown

THINGS = "things.json"
THINGS_BYTES = 2**21  # of that file
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
Text = Annotated[str, Len(1, 128)]

_ODD = {  # plurals that no rule finds, and short forms
    "men": "man", "women": "woman", "children": "child", "people": "person", "feet": "foot", "teeth": "tooth",
    "geese": "goose", "mice": "mouse", "oxen": "ox", "leaves": "leaf", "wolves": "wolf", "knives": "knife",
    "loaves": "loaf", "calves": "calf", "scarves": "scarf", "elves": "elf", "dwarves": "dwarf", "cacti": "cactus",
    "shoes": "shoe", "horseshoes": "horseshoe", "snowshoes": "snowshoe", "canoes": "canoe", "toes": "toe",
    "cookies": "cookie", "axes": "axe", "dice": "die", "kiwis": "kiwi", "rhino": "rhinoceros", "rhinos": "rhinoceros",
    "hippo": "hippopotamus", "hippos": "hippopotamus", "snowmen": "snowman", "policemen": "policeman", "buses": "bus",
    "minibuses": "minibus", "trolleybuses": "trolleybus", "taxis": "taxi", "octopuses": "octopus", "zombies": "zombie",
    "genies": "genie", "pickaxes": "pickaxe", "bikinis": "bikini", "saris": "sari",
}  # fmt: skip


def stem(word: str) -> str:
    """A word as it is compared: lower case, singular, British spellings as American ones. "Colours" -> "color"."""
    word = word.lower().replace("’", "'").removesuffix("'s")
    word = _ODD.get(word, word)
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "ceros")):
        if word.endswith("ies") and len(word) > 4:
            word = f"{word[:-3]}y"
        else:
            word = word[:-2] if word.endswith(("ches", "shes", "xes", "sses", "zes", "oes")) else word[:-1]
    return {"grey": "gray", "colour": "color"}.get(word, word)


def stems(text: str) -> tuple[str, ...]:
    """The words of a text, each as `stem` has it."""
    return tuple(stem(word) for word in WORD.findall(text))


@dataclass(frozen=True)
class Thing:
    """One thing. name: its caption, with its article: "a cat". group: "animal", "food" ...

    words: other names of it, kinds of it, and texts that it was taught for: "kitten", "a labrador", "love". emoji: that
    show it, as their code points without U+FE0F: "1f431", "1f408-200d-2b1b".
    """

    name: Text
    group: Text = "thing"
    words: Annotated[tuple[Text, ...], Len(0, 10_000)] = ()
    emoji: Annotated[tuple[Text, ...], Len(0, 100)] = ()

    @property
    def bare(self) -> str:
        """The name without its article: "cat"."""
        return re.sub(r"^(an?|the) ", "", self.name)


@dataclass(frozen=True)
class Things:
    """All things of a checkpoint, in the file's order."""

    things: tuple[Thing, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.things)

    @cached_property
    def _by_stems(self) -> dict[tuple[str, ...], Thing]:
        return {stems(thing.bare): thing for thing in reversed(self.things)}

    @cached_property
    def stems(self) -> list[tuple[Thing, frozenset[str], list[frozenset[str]]]]:
        """Each thing with the words of its name, and those of each of its other texts, as `stem` has them."""
        return [
            (thing, frozenset(stems(thing.name)), [frozenset(stems(text)) for text in thing.words])
            for thing in self.things
        ]

    @cached_property
    def _vocabulary(self) -> frozenset[str]:
        return frozenset().union(*(words for _, name, texts in self.stems for words in (name, *texts)))

    @cached_property
    def _by_second_word(self) -> dict[tuple[str, ...], list[Thing]]:
        found = defaultdict[tuple[str, ...], list[Thing]](list)
        for thing in self.things:
            found[stems(thing.bare)[1:]].append(thing)
        return dict(found)

    def of_any_colour(self, name: str, colours: Set[str]) -> Thing | None:
        """The first thing, if it is no symbol, that has this name behind a colour: "a red apple" for "apples"."""
        words = stems(name)
        found = self._by_second_word.get(words, []) if words else []
        return next((thing for thing in found if thing.group != "symbol" and stems(thing.bare)[0] in colours), None)

    def find(self, name: str) -> Thing | None:
        """The thing of this name, with or without its article, singular or plural. None for no thing."""
        return self._by_stems.get(stems(re.sub(r"^(an?|the) ", "", name.lower())))

    @cached_property
    def _by_emoji(self) -> dict[str, Thing]:
        return {emoji: thing for thing in reversed(self.things) for emoji in thing.emoji}

    def of_emoji(self, emoji: str) -> Thing | None:
        """The thing that an emoji shows, which may be a joined sequence. None for no thing."""
        return self._by_emoji.get("-".join(f"{ord(character):04x}" for character in emoji if character != "\ufe0f"))

    @cached_property
    def _by_texts(self) -> dict[tuple[str, ...], Thing]:
        return {
            stems(re.sub(r"^(an?|the) ", "", text)): thing for thing in reversed(self.things) for text in thing.words
        }

    def meant_by(self, text: str, groups: Set[str] | None) -> Thing | None:
        """The thing of these groups, or of any, that was taught for this text: a cat for "kittens"."""
        thing = self._by_texts.get(stems(text))
        return thing if thing and (groups is None or thing.group in groups) else None

    def knows(self, word: str) -> bool:
        """Whether a name or another text of a thing has this word, as `stem` has it."""
        return word in self._vocabulary

    @cached_property
    def _said(self) -> list[tuple[Thing, list[str], list[list[str]]]]:
        """Each thing with the words of its name, and those of each of its other texts."""
        return [(thing, _words(thing.bare), [_words(text) for text in thing.words]) for thing in self.things]

    def search(self, text: str) -> list[Thing]:
        """The things with a name or another text that holds every word of `text`, or a word that begins with it.

        Those with it in their name come first. Of an empty text: all things, in their order. Of an emoji: its thing.
        """
        if shown := self.of_emoji(text.strip()):
            return [shown]
        wanted = _words(text)

        def holds(found: list[str]) -> bool:
            return all(any(word.startswith(begun) for word in found) for begun in wanted)

        named = [thing for thing, name, _ in self._said if holds(name)]
        others = [thing for thing, name, texts in self._said if not holds(name) and any(map(holds, texts))]
        return named + others


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


def parse(data: bytes, where: str = THINGS) -> Things:
    """The things in the bytes of a things.json: a list of objects with the fields of `Thing`.

    Raises CheckpointError naming the file and the key.
    """
    values = parse_json(data, where)
    if not isinstance(values, list):
        raise CheckpointError(f"{where} must be a list, got {shown(values)}")
    return Things(tuple(build(Thing, value, where, f"[{i}]") for i, value in enumerate(values)))
