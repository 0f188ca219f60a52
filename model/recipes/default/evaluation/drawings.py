"""The corpus as an evaluation sees it: the real drawings of each thing, their vendors, and which of them training saw.

All concepts of one name are one thing: "cat" is the cat and the cat's face. Its drawings come from several vendors.
Vendors whose drawings are versions of one another are one family.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

from PIL import Image

from model.drawings.concepts import Name
from model.errors import DataError
from model.recipes.default.evaluation.findings import NotMeasured
from model.training.data import TEXT_BYTES, load, parse_text
from model.training.pairing import Entry
from model.training.selection import Selection
from model.training.sources import index

FAMILIES = ("fluent", "noto", "streamline")  # sources with such a prefix are versions of one another


@dataclass(frozen=True)
class Line:
    """One picture of the corpus. caption: its first one, which is the plain name. Unknown fields are empty."""

    entry: Entry
    caption: str
    concept: str
    kind: str
    source: str
    split: str

    @property
    def family(self) -> str:
        """The family of its source."""
        return next((name for name in FAMILIES if self.source.split("-")[0] == name), self.source)

    def picture(self) -> Image.Image:
        """RGB, 256 x 256. Raises DataError."""
        try:
            sample = load(self.entry)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.entry.picture.path}: {self.entry.key}: cannot be read: {error}") from None
        assert sample is not None
        return Image.fromarray(sample.image)


@dataclass(frozen=True)
class Thing:
    """All concepts of one name, with their drawings, each alone on white."""

    name: Name
    slugs: tuple[str, ...]
    drawings: tuple[Line, ...]

    @property
    def countable(self) -> bool:
        """Whether there can be two of it. Its name then takes "a" or "an"."""
        return self.name.article in ("a", "an")


def _line(entry: Entry) -> Line:
    try:
        captions, meta = parse_text(entry.text.read(TEXT_BYTES), entry.suffix) if entry.text else ([], {})
    except (OSError, ValueError) as error:
        raise DataError(f"{entry.picture.path}: {entry.key}: its text cannot be read: {error}") from None
    fields = (str(meta.get(key, default)) for key, default in (("concept", ""), ("kind", "single"), ("source", "")))
    concept, kind, source = fields
    caption = captions[0][1] if captions else ""
    return Line(entry, caption, concept or caption, kind, source, str(meta.get("split", "train")))


class Drawings:
    """The pictures of folders or tar shards, by kind and by thing. Raises DataError if they cannot be read."""

    def __init__(self, data: Sequence[Path], known: Selection | None = None) -> None:
        """known: selects the pictures that the model was trained on; None for all."""
        self.lines = [_line(entry) for entry in index(data)]
        self._known = known or Selection()

    def of(self, kind: str = "", split: str = "") -> list[Line]:
        """The lines of a kind and a split; "" for all."""
        return [line for line in self.lines if kind in ("", line.kind) and split in ("", line.split)]

    def takes(self, concept: str, kind: str) -> bool:
        """Whether the model was trained on such pictures."""
        return self._known.takes({"captions": True, "concept": concept, "kind": kind})

    def shown(self, kind: str) -> list[Line]:
        """The lines of a kind that the model was trained on."""
        return [line for line in self.of(kind, "train") if self.takes(line.concept, kind)]

    @property
    def digest(self) -> str:
        """A hash of the pictures' keys, sizes and captions, not of their pixels."""
        names = "\n".join(f"{line.entry.key} {line.entry.picture.size} {line.caption}" for line in self.lines)
        return hashlib.sha256(names.encode()).hexdigest()[:12]

    @cached_property
    def things(self) -> dict[str, Thing]:
        """The things that two families or more have drawn alone, by full name ("a cat")."""
        found: dict[str, list[Line]] = defaultdict(list)
        for line in self.of("single"):
            if line.caption and line.source:
                found[line.caption].append(line)
        return {
            name: Thing(_name(name), tuple(dict.fromkeys(line.concept for line in drawn)), tuple(drawn))
            for name, drawn in found.items()
            if len({line.family for line in drawn}) > 1
        }

    @cached_property
    def by_slug(self) -> dict[str, Thing]:
        """The same things by concept, as compositions name them."""
        return {slug: thing for thing in self.things.values() for slug in thing.slugs}

    def composed(self, kind: str) -> frozenset[str]:
        """The concepts that the corpus shows in compositions of this kind: "pair", "count" ..."""
        return frozenset(slug for line in self.of(kind) for slug in line.concept.split("+"))

    def choose(self, number: int, seed: int) -> tuple[list[Thing], list[Thing]]:
        """(tested, others): known things that prompts ask for, and other things. Both together are at most `number`.

        Both are chosen at random. The judge has to tell all of them apart. So its task is equally hard for a model that
        knows few things. Raises NotMeasured if the model knows fewer than two.
        """
        things = [self.things[name] for name in sorted(self.things)]
        Random(f"{seed} things").shuffle(things)
        known = [thing for thing in things if any(self.takes(slug, "single") for slug in thing.slugs)]
        if len(known) < 2:
            found = f"{len(known)} things in {len(self.lines)} pictures are known to the model and drawn by two vendors"
            raise NotMeasured(f"{found}; two are needed to tell anything apart")
        tested = known[:number]
        names = {thing.name.full for thing in known}
        return tested, [thing for thing in things if thing.name.full not in names][: number - len(tested)]


def _name(full: str) -> Name:
    """ "a cat" -> the name "cat" with its article; "grapes" -> "grapes" without."""
    article, _, rest = full.partition(" ")
    return Name(rest, article) if article in ("a", "an", "the") and rest else Name(full)
