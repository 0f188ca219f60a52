"""The things that drawings show: names with articles, synonyms, and the everyday things of everyday.txt.

The module knows the English nouns that captions need, and nothing of pictures.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

from .lists import lines, words


@dataclass(frozen=True)
class Name:
    """text: the name without its article. article: "a", "an", "the" or "" as the name takes it."""

    text: str
    article: str = ""

    @property
    def full(self) -> str:
        """The name with its article: "a red apple", "the sun", "grapes"."""
        return f"{self.article} {self.text}" if self.article else self.text


@dataclass(frozen=True)
class Concept:
    """One thing that is drawn, often by several vendors.

    slug: its identity, also in file names. names: the first one is the canonical name. group: "animal", "food" or
    another group of everyday.txt, else the source. mirror: whether its mirror image shows the same thing.
    """

    slug: str
    names: tuple[Name, ...]
    synonyms: tuple[Name, ...] = ()
    group: str = ""
    mirror: bool = True

    @property
    def countable(self) -> bool:
        """Whether there can be several of it. The canonical name then takes "a" or "an"."""
        return self.names[0].article in ("a", "an")


_SILENT_H = ("hourglass", "hour", "honest", "heir")
_VOWEL_SOUND = (
    "suv", "x-ray", "mri", "atm", "rv", "nfl", "nba", "led ", "lgbt", "sms", "rsvp", "slr", "x mark", "xmas", "fbi",
    "unid", "unim", "unin",
)  # fmt: skip
_Y_OR_W_SOUND = (
    "uni", "eu", "ukul", "one", "ufo", "usb", "uk ", "us ", "ute", "use", "ewe", "urin", "uran", "utopia",
)  # fmt: skip


def article(noun: str) -> str:
    """ "a" or "an" as the noun is spoken."""
    noun = noun.lower()
    if noun.startswith((*_SILENT_H, *_VOWEL_SOUND)):
        return "an"
    return "an" if noun[:1] in "aeiou" and not noun.startswith(_Y_OR_W_SOUND) else "a"


def parse_name(text: str) -> Name:
    """ "-grapes" takes no article, "the sun" keeps its own, "red apple" takes "a"."""
    text = " ".join(text.split())
    if text.startswith("-"):
        return Name(text[1:])
    if text.startswith("the "):
        return Name(text[4:], "the")
    return Name(text, article(text))


_SINGULAR_S = ("ss", "us", "is", "lens", "canvas", "atlas", "gas", "bus", "cosmos", "tennis", "compass", "christmas")


def guess_name(label: str) -> Name:
    """A label of unknown kind -> a Name: no article for plurals and substances, else a or an."""
    text = " ".join(label.split())
    if text.split()[0] in ("man", "woman", "person", "boy", "girl"):  # "man lifting weights"
        return Name(text, "a")
    if text.lower() in words("unique"):
        return Name(text, "the")
    head = re.split(r" (?:of|with|in|on|behind|and|showing|for|from|at|to|over|without) ", text)[0].split()[-1].lower()
    plural = head.endswith("s") and not head.endswith(_SINGULAR_S)
    if plural or head in words("uncounted") or head.isdigit():
        return Name(text)
    return Name(text, article(text))


def slugify(text: str) -> str:
    """ "Woman’s hat" -> "womans-hat", "piñata" -> "pinata": the spelling of the icon sets."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower().replace("'", "")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def flag_concept(code: str, country: str, adjective: str = "") -> Concept:
    """The flag of a country. country: its name with its own "the", as after "the flag of"."""
    bare = country.removeprefix("the ")
    names, also = [Name(f"flag of {country}", "the")], [Name(f"{bare} flag"), Name(f"flag of {bare}", "a")]
    if adjective:
        names.append(Name(f"{adjective} flag", "the"))
        also.append(Name(f"{adjective} flag", article(adjective)))
    return Concept(f"flag-{code}", tuple(names), tuple(also), "flag", mirror=False)


def mirrors(slug: str) -> bool:
    """Whether the mirror image of the thing with this slug still shows it."""
    return words("handed").isdisjoint(slug.split("-")) and "oclock" not in slug


def _listed(file: str) -> dict[str, tuple[str, ...]]:
    """Slug -> texts, from a file of lines "slug = text, text". A slug may have several lines."""
    found: dict[str, tuple[str, ...]] = {}
    for _, line in lines(file):
        slug, _, texts = (part.strip() for part in line.partition("="))
        found[slug] = found.get(slug, ()) + tuple(text.strip() for text in texts.split(","))
    return found


@cache
def evocations() -> dict[str, tuple[str, ...]]:
    """Slug -> texts that make one think of this thing without naming it, from evocations.txt."""
    return _listed("evocations.txt")


@cache
def kinds() -> dict[str, tuple[Name, ...]]:
    """Slug -> nouns for kinds of this thing ("labrador", "limousine"), from kinds.txt."""
    return {slug: tuple(map(parse_name, nouns)) for slug, nouns in _listed("kinds.txt").items()}


@cache
def ordinary(section: str) -> tuple[str, ...]:
    """Texts that name nothing to draw: the "nouns", "adjectives", "doings" or "clauses" of ordinary.txt."""
    found = (line for name, line in lines("ordinary.txt") if name == section)
    return tuple(text.strip() for line in found for text in line.split(",") if text.strip())


@cache
def everyday() -> dict[str, Concept]:
    """The things of everyday.txt by slug, in its order."""
    found: dict[str, Concept] = {}
    for group, line in lines("everyday.txt"):
        left, _, others = line.partition("~")
        slug, _, listed = (part.strip() for part in left.partition("="))
        if group == "flag":
            concept = flag_concept(slug, listed, others.strip())
        else:
            slug = slugify(slug)
            names = tuple(map(parse_name, (listed or slug.replace("-", " ")).split(",")))
            synonyms = tuple(parse_name(name) for name in others.split(",") if name.strip())
            concept = Concept(slug, names, synonyms, group, mirrors(slug))
        found[concept.slug] = concept
    return found
