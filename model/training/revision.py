"""Prompts as people type them, each with the caption that says what is to be painted: what a reviser learns from.

The caption is a picture's first, and the prompt is made of any of its captions by `clutter` and by what is here: other
words for numbers, colours and places, a colour that the thing was not taught, a number of what is never counted, a
third thing, slips of the keyboard. Where a prompt asks for more than the pictures show, the caption is what is nearest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from model.reviser import plain
from model.training.clutter import UNKNOWN, clutter, described, pick, unknown
from model.training.corpus.captions import NUMBERS, STYLES, plural
from model.training.corpus.concepts import Concept, Name, article, everyday, evocations, kinds
from model.training.corpus.dye import SHADES as DYES
from model.training.data import sample_caption

Line = dict[str, Any]  # of a prepared picture: captions, concept, kind

# Shades by other names, each with the taught colour that is nearest to it; "white" is the plain ground.
SHADES = {
    "red": "crimson scarlet ruby cherry maroon bright-red dark-red burgundy vermilion blood-red",
    "orange": "tangerine amber apricot bright-orange dark-orange coral copper",
    "yellow": "lemon golden gold mustard bright-yellow pale-yellow sunny-yellow canary",
    "green": "emerald dark-green forest-green lime light-green olive bright-green jade mint-green pastel-green",
    "turquoise": "teal cyan aqua aquamarine blue-green",
    "light blue": "sky-blue pale-blue pastel-blue baby-blue azure powder-blue",
    "blue": "navy navy-blue royal-blue dark-blue cobalt indigo deep-blue sapphire bright-blue",
    "purple": "violet lilac lavender mauve plum magenta dark-purple pastel-purple",
    "pink": "rose salmon hot-pink pastel-pink light-pink fuchsia peach",
    "brown": "chocolate chestnut tan wooden dark-brown bronze light-brown",
    "gray": "grey silver charcoal slate light-gray dark-grey dark-gray light-grey concrete",
    "black": "jet-black pitch-black dark ebony very-dark",
    "white": "beige cream ivory off-white light plain clean blank transparent simple snow-white bright neutral",
}
_SHADES = {colour: tuple(shade.replace("-", " ") for shade in shades.split()) for colour, shades in SHADES.items()}
_LONGEST_FIRST = tuple(sorted(_SHADES, key=len, reverse=True))  # "light blue" before "blue"
_NEAREST = {"turquoise": "blue", "light blue": "blue"}  # of a thing: grounds have more colours than things are given
_TINTS = tuple(shade for colour in _SHADES for shade in (colour, *_SHADES[colour][:3]))  # that something is asked in

MANY = {
    "two": ("a pair of", "a couple of", "2", "both", "twin", "exactly two", "a few"),
    "three": ("a trio of", "3", "exactly three", "some"),
    "four": ("4", "exactly four", "a set of four", "a quartet of"),
    "five": (
        "5", "six", "seven", "eight", "nine", "ten", "6", "10", "100", "a dozen", "many", "lots of", "several",
        "a bunch of", "a group of", "a crowd of", "a collection of", "dozens of", "a pile of", "exactly five",
    ),
}  # fmt: skip
_JOINED = {
    " next to ": (" close to ", " standing next to ", " sitting beside ", " side by side with "),
    " to the left of ": (" on the left of ", " on the left side of ", " left from "),
    " to the right of ": (" on the right of ", " on the right side of ", " right from "),
    " above ": (" over ", " floating above ", " hovering over ", " stacked on "),
    " below ": (" beneath ", " underneath ", " placed under "),
    " and ": (" & ", " with ", " plus ", ", ", " along with ", " together with ", " near ", " alongside "),
}
_JOINTS = {" beside ", " left of ", " right of ", *_JOINED, *(other for of_one in _JOINED.values() for other in of_one)}
_BETWEEN = re.compile(f"({'|'.join(sorted(_JOINTS, key=lambda joint: (-len(joint), joint)))})")  # two things
_IN_3D = (  # {a} is the thing with its article, {n} without
    "a 3d model of {a}", "3d {n}", "{a} in 3d style", "{a} rendered in 3d", "a three dimensional {n}",
    "{a}, 3d art", "{a}, octane render", "{a}, blender render", "{a} rendered in blender", "a 3d icon of {a}",
    "3d render {n}", "a 3d illustration of {a}", "a 3d picture of {a}", "a realistic 3d {n}", "{a}, 3d", "{n} 3d",
    "a cute 3d {n}", "{a} as a 3d model", "{a} like in a 3d movie", "a 3d cartoon of {a}", "a clay model of {a}",
    "a 3d print of {a}", "a 3d rendering of {a}", "a computer generated 3d image of {a}", "a 3-d {n}",
    "a toy {n} in 3d",
)  # fmt: skip
_RENDER = STYLES["3d"][0].format(a="", n="")  # how the first caption of a thing in 3d begins
_COLOURED = (  # {a} is the thing with its article, {n} without, {c} the colour, {ac} with its article
    "{a} that is {c}", "{a}, {c}", "{a} in {c}", "{ac} coloured {n}", "a bright {c} {n}", "a dark {c} {n}", "{n} {c}",
    "{a}, coloured {c}", "{a} painted {c}", "a completely {c} {n}", "{a} of {c} colour", "{ac}-colored {n}",
    "{ac} colored {n}", "a really {c} {n}", "a pale {c} {n}",
)  # fmt: skip
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _with_article(text: str) -> str:
    return f"{article(text)} {text}"


def _swap(text: str, words: dict[str, tuple[str, ...]], random: np.random.Generator) -> str:
    """The first of these words that is in the text by one of its others."""
    for word, others in words.items():
        if word in text:
            return text.replace(word, pick(others, random, strip=False), 1)
    return text


def _placed(caption: str, random: np.random.Generator) -> str:
    """ "a cat on a blue background", now and then with the ground in other words or in front."""
    found = re.fullmatch(r"(.+?) on an? (.+) background", caption)
    if found is None or random.random() < 0.4:
        return caption
    thing, colour = found.groups()
    ground = _with_article(colour)
    forms = (
        f"{ground} background with {thing}", f"{ground} background and {thing}", f"{colour} background, {thing}",
        f"{thing} against {ground} background", f"{thing} on a plain {colour} background",
        f"{thing} on a solid {colour} background", f"{thing} in front of {ground} wall", f"{thing} over {colour}",
        f"{thing} with {ground} ground", f"{thing}, the background is {colour}", f"{thing} against {colour}",
    )  # fmt: skip
    return pick(forms, random)


def _in_3d(thing: str, random: np.random.Generator) -> str:
    """A thing in 3d by other words, now and then on a ground, which this style does not have."""
    said = pick(_IN_3D, random).format(a=thing, n=re.sub(r"^(an?|the) ", "", thing))
    shade = pick(_TINTS, random)
    return f"{said} on {_with_article(shade)} background" if random.random() < 0.15 else said


def _tinted(text: str, random: np.random.Generator) -> str:
    """ "a cat" -> "a scarlet cat"; what has a colour, or no place for one, stays as it is."""
    first, _, rest = text.partition(" ")
    if first in ("the", "some") or (rest if first in ("a", "an") else text).startswith(_LONGEST_FIRST):
        return text
    tint = pick(_TINTS, random)
    return _with_article(f"{tint} {rest}") if first in ("a", "an") else f"{tint} {text}"


def _in_colour(caption: str, random: np.random.Generator) -> str:
    """ "a red cat on a blue background" with the cat's colour in other words: "a cat that is crimson on a ..."."""
    found = re.match(rf"((an?) )?({'|'.join(DYES)}) (.+?)(?= on an? |$)", caption)
    if found is None:
        return caption
    _, counted, colour, thing = found.groups()
    others = _SHADES[colour][: 3 if colour == "white" else None]  # a "plain" ground is white, a plain cat is not
    near = [other for other, nearest in _NEAREST.items() if nearest == colour]
    shade = pick((colour, *others, *near, *(shade for other in near for shade in _SHADES[other])), random)
    if counted and random.random() < 0.3:
        said = pick(_COLOURED, random).format(a=_with_article(thing), n=thing, c=shade, ac=_with_article(shade))
    else:
        said = _with_article(f"{shade} {thing}") if counted else f"{shade} {thing}"
    return said + caption[found.end() :]


def _slip(text: str, random: np.random.Generator) -> str:
    """One letter of a word of five or more left out, doubled, changed or put in the next one's place."""
    places = list(re.finditer(r"[a-z]{5,}", text))
    if not places:
        return text
    word = places[int(random.integers(len(places)))]
    at, kind = int(random.integers(word.start() + 1, word.end() - 1)), int(random.integers(4))
    middle = ("", 2 * text[at], _LETTERS[int(random.integers(26))], text[at + 1] + text[at])[kind]
    return text[:at] + middle + text[at + (2 if kind == 3 else 1) :]


def _typed(text: str, random: np.random.Generator) -> str:
    """As it comes from a keyboard: no article, a slip, a full stop. Capitals are nothing to learn: see `plain`."""
    bare, slip, stop = random.random(3)
    if bare < 0.08:
        text = re.sub(r"^(a|an|the) ", "", text)
    if slip < 0.1:
        text = _slip(text, random)
    return text + pick((".", "!", "?", "...", " please"), random, strip=False) if stop < 0.1 else text


@dataclass(frozen=True)
class Prompts:
    """Draws pairs from the lines of pictures; `shares` says how often each is drawn, and sums to 1.

    held: captions of pictures that are held out. A colour that they name is not passed over: the painter is to do
    without having seen it.
    """

    lines: Sequence[Line]
    shares: Sequence[float]
    held: frozenset[str] = frozenset()
    unknown: float = 0.08  # share of the prompts that nobody knows, where there is a drawing for these
    long: float = 0.03  # share of the prompts that go on for several sentences that name nothing
    by_kind: float = 0.35  # share of the prompts that are drawn by their words: each kind and each idea as often

    @cached_property
    def _edges(self) -> Any:
        return np.cumsum(self.shares)

    @cached_property
    def _singles(self) -> dict[str, Line]:
        return {str(line.get("concept", "")): line for line in self.lines if line.get("kind", "single") == "single"}

    @cached_property
    def _counted(self) -> frozenset[str]:
        return frozenset(str(line.get("concept")) for line in self.lines if line.get("kind") == "count")

    @cached_property
    def _in_style(self) -> frozenset[str]:
        return frozenset(str(line.get("concept")) for line in self.lines if line.get("kind") == "styled")

    @cached_property
    def _dyed(self) -> frozenset[str]:
        return frozenset(str(line.get("concept")) for line in self.lines if line.get("kind") == "dyed")

    @cached_property
    def _said(self) -> frozenset[str]:
        return self.held.union(text for line in self.lines for _, text in line["captions"])

    @cached_property
    def _words(self) -> list[tuple[str, str]]:
        """(slug, text) of all kinds and ideas of what is drawn."""
        found = [(slug, kind.full) for slug, of_one in kinds().items() for kind in of_one]
        found += [(slug, text) for slug, texts in evocations().items() for text in texts]
        return [(slug, text) for slug, text in found if slug in self._singles]

    def draw(self, random: np.random.Generator) -> tuple[str, str]:
        """(prompt, caption)."""
        prompt, line = self._prompt(random)
        prompt = _typed(prompt, random)
        if random.random() < self.long:
            more = (unknown(random) for _ in range(int(random.integers(2, 16))))
            prompt = ". ".join([prompt, *more])
        return plain(prompt), str(line["captions"][0][1])

    def _prompt(self, random: np.random.Generator) -> tuple[str, Line]:
        """A text, and a picture that it may ask for."""
        kind = random.random()
        if kind < self.unknown and UNKNOWN in self._singles:
            line = self._singles[UNKNOWN]
            return clutter(line["captions"][0][1], random, UNKNOWN), line
        if kind < self.unknown + self.by_kind and self._words:
            slug, text = self._words[int(random.integers(len(self._words)))]
            return text if random.random() < 0.5 else clutter(text, random), self._singles[slug]
        line = self.lines[min(int(np.searchsorted(self._edges, random.random())), len(self.lines) - 1)]
        if line.get("kind") == "dyed" and random.random() < 0.12:
            concept = str(line.get("concept"))
            if concept in self._singles and (found := self._untaught(concept, random)):
                return found, self._singles[concept]
        return self._asked(line, sample_caption(line["captions"], random), random), line

    def _asked(self, line: Line, caption: str, random: np.random.Generator) -> str:
        """A caption of this picture, changed; one in five stays as it is."""
        if random.random() < 0.2:
            return caption
        kind, concept, changed = line.get("kind", "single"), str(line.get("concept", "")), random.random() < 0.4
        if kind == "single":
            if concept not in self._in_style and concept != UNKNOWN and random.random() < 0.07:
                return _in_3d(line["captions"][0][1], random)
            if changed and random.random() < 0.3 and (found := self._beyond(concept, random)):
                caption = found
            return clutter(caption, random, concept)
        if kind == "styled" and changed and (first := line["captions"][0][1]).startswith(_RENDER):
            caption = _in_3d(first.removeprefix(_RENDER), random)
        if kind == "dyed" and changed:
            caption = _in_colour(caption, random)
            if random.random() < 0.5:
                caption = _placed(self._shaded(caption, random) if random.random() < 0.5 else caption, random)
        if kind == "background" and changed:
            caption = _placed(self._shaded(caption, random) if random.random() < 0.6 else caption, random)
        if kind == "count" and changed:
            first, _, rest = caption.partition(" ")
            caption = f"{pick(MANY[first], random)} {rest}" if first in MANY else caption
        if kind == "pair":
            if changed:
                caption = _swap(caption, _JOINED, random)
            if random.random() < 0.1:
                joint = pick((" and ", ", ", ", and ", " and also "), random, strip=False)
                caption += f"{joint}{self._other(random).full}"
        if random.random() < 0.4:
            return self._inside(caption, kind, concept in self._dyed, random)
        return clutter(caption, random) if random.random() < 0.6 else caption

    def _inside(self, caption: str, kind: str, dyed: bool, random: np.random.Generator) -> str:
        """With an adjective between its words: "two tired cats", "a cat and a brave dog"; or in a colour, if untaught.

        dyed: in colours it was taught alone and on grounds, but neither counted nor beside something.
        """
        first, _, rest = caption.partition(" ")
        untaught = kind in ("count", "pair") or (kind == "background" and not dyed)
        describe = _tinted if untaught and random.random() < 0.25 else described
        if kind == "count" and first in (*MANY, "2", "3", "4", "5") and rest:
            return f"{first} {describe(rest, random)}"
        if kind != "pair":
            return describe(caption, random)
        parts = _BETWEEN.split(caption)  # a thing, what joins it to the next, the next
        things = range(0, len(parts), 2)
        for at in things if random.random() < 0.3 else [int(random.choice(things))]:
            parts[at] = describe(parts[at], random)
        return "".join(parts)

    def _shaded(self, caption: str, random: np.random.Generator) -> str:
        """The ground's colour by another name."""
        for colour in _LONGEST_FIRST:
            ground = rf"(an? )?\b{colour}(?= background$|$)"
            if re.search(ground, caption):
                shade = pick(_SHADES[colour], random)
                return re.sub(ground, lambda found: _with_article(shade) if found[1] else shade, caption)  # noqa: B023
        return caption

    @cached_property
    def _others(self) -> list[Name]:
        return [everyday()[slug].names[0] for slug in sorted(self._counted & set(everyday()))] or [Name("thing", "a")]

    def _other(self, random: np.random.Generator) -> Name:
        return self._others[int(random.integers(len(self._others)))]

    def _beyond(self, concept: str, random: np.random.Generator) -> str | None:
        """More than is taught of this thing: a colour, a plain ground, or some of what is not counted. None: not so."""
        thing = everyday().get(concept)
        if thing is None or concept == UNKNOWN:
            return None
        name = thing.names[int(random.integers(len(thing.names)))]
        kind = random.random()
        if kind < 0.25:
            shade = pick(_SHADES["white"], random)
            return f"{name.full} on {_with_article(shade)} background"
        if concept not in self._counted and kind < 0.6:
            if kind < 0.4:
                return f"{name.full} and {self._other(random).full}"
            number = pick(tuple(NUMBERS[n] for n in range(2, 6)), random)
            return f"{number} {plural(name.text) if name.article else name.text}"
        return self._untaught(concept, random)

    def _untaught(self, concept: str, random: np.random.Generator) -> str | None:
        """A thing in a colour that it was not taught in: its own, or black for what has black eyes. None: no such."""
        thing = everyday().get(concept)
        if thing is None or thing.group in ("symbol", "flag"):
            return None
        name = thing.names[int(random.integers(len(thing.names)))]
        tint = pick([tint for tint in _TINTS if not self._in_colour_of(thing, tint)] or [""], random)
        if not tint or any(colour in name.text for colour in _SHADES):
            return None
        return _with_article(f"{tint} {name.text}") if name.article in ("a", "an") else f"{tint} {name.text}"

    def _in_colour_of(self, thing: Concept, tint: str) -> bool:
        """The thing was taught in this tint's colour, or is to be painted in it without."""
        colour = next(colour for colour in _SHADES if tint in (colour, *_SHADES[colour]))
        said = [f"{_NEAREST.get(colour, colour)} {name.text}" for name in thing.names]
        return not self._said.isdisjoint((*said, *map(_with_article, said)))
