"""Which pictures a corpus is made of: the things that are drawn, and how each is shown.

    plan = Plan(grounds=2, pairs=4)
    listed, plain = plan.chosen(drawings)
    pictures = plan.pictures(listed, plain, plan.in_other_colours(listed))

Every choice depends on the seed and the drawings' names alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from model.drawings.compose import Drawing, Picture, on_grounds, single
from model.errors import DataError
from model.training.selection import Selection

from .compositions import SHARES, compositions, dyes, hold_out, plain_shapes, shapes, together

DYED_GROUNDS = 2  # on so many a thing in another colour is shown: its colour and the ground are known from elsewhere


@dataclass(frozen=True)
class Plan:
    """selection: "common", the everyday things by the emoji vendors (about 8000 pictures, four minutes on two cores);
    "full", all sources; "eval", the held-out vendor's drawings, whose share-alike licence keeps them out of training.
    grounds: every drawing also on so many of the named colours, in its place.
    pairs: every drawing of a thing in up to so many pairs, and two to five times; 0 leaves a few of both to chance.
    concepts: only drawings of these, as in `Selection`; paired: of them, those that are counted and put into pairs.
    in_colours: every drawing that has a main colour also in so many others, and each of these on up to two grounds;
    dyed: of these things only.
    one_each: of every name the first drawing only, an emoji's red circle before our own; and every name for one thing.
    say_style: a thing alone is always told with its style ("a 3d cat"), so that "a cat" may be drawn in another.
    kinds: only pictures of these, as the samples name their kind.
    """

    selection: str = "common"
    seed: int = 0
    grounds: int = 0
    pairs: int = 0
    concepts: Mapping[str, float] = field(default_factory=dict)
    paired: Mapping[str, float] = field(default_factory=dict)
    in_colours: int = 0
    dyed: Mapping[str, float] = field(default_factory=dict)
    one_each: bool = False
    say_style: bool = False
    kinds: Collection[str] = ()

    def chosen(self, drawings: Sequence[Drawing]) -> tuple[list[Drawing], list[Drawing]]:
        """Of these drawings those that are wanted; and the plain shapes, which we draw ourselves."""
        if self.selection == "common":
            drawings = [drawing for drawing in drawings if drawing.everyday]
        listed = _of_concepts(drawings, self.concepts)
        plain = [] if self.selection == "eval" else _of_concepts(plain_shapes(), self.concepts)
        if self.one_each:
            listed = _with_own_names(_first_of_each(listed))
            named = {name.text for drawing in listed for name in drawing.concept.names}
            plain = [drawing for drawing in plain if drawing.concept.names[0].text not in named]
        return listed, plain

    def missing(self, drawings: Sequence[Drawing]) -> list[str]:
        """Concepts that are asked for and that none of these shows."""
        return sorted(name for name in self.concepts if not _of_concepts(drawings, {name: 1.0}))

    def in_other_colours(self, drawings: Sequence[Drawing]) -> list[Picture]:
        if not self.in_colours:
            return []
        taken = {name.text for drawing in drawings for name in drawing.concept.names}
        grounds = min(self.grounds, DYED_GROUNDS)
        return [
            one
            for drawing in _of_concepts(drawings, self.dyed)
            for one in dyes(self._random(f"{drawing.key} dyes"), drawing, self.in_colours, grounds, taken)
        ]

    def pictures(
        self, drawings: Sequence[Drawing], plain: Sequence[Drawing], coloured: Sequence[Picture] = ()
    ) -> list[Picture]:
        """Every picture to be made, in the order of the shards. Raises DataError for a kind that none of them is."""
        pictures = self._all(drawings, plain, coloured)
        if unknown := set(self.kinds) - (made := {picture.kind for picture in pictures}):
            raise DataError(f"no picture is of kind {', '.join(sorted(unknown))}; there are {', '.join(sorted(made))}")
        return [picture for picture in pictures if not self.kinds or picture.kind in self.kinds]

    def _all(self, drawings: Sequence[Drawing], plain: Sequence[Drawing], coloured: Sequence[Picture]) -> list[Picture]:
        pictures = [single(drawing, self.say_style) for drawing in drawings]
        if self.selection == "eval":
            return [dataclasses.replace(picture, kind="eval", split="eval") for picture in pictures]
        pictures += shapes(self._random("shapes"), plain, whole=self.one_each)
        shares = SHARES[self.selection] | (dict.fromkeys(("pair", "count"), 0.0) if self.pairs else {})
        pictures += compositions(self._random("compositions"), drawings, shares)
        if self.pairs:
            paired = _of_concepts(drawings, self.paired)
            pictures += together(self._random("together"), paired, self.pairs, named=bool(self.paired))
        for drawing in drawings:
            pictures += on_grounds(self._random(drawing.key), drawing, self.grounds)
        pictures += coloured
        pictures = hold_out(self._random("val"), pictures)
        self._random("order").shuffle(pictures)
        return pictures

    def _random(self, of: str) -> Random:
        return Random(f"{self.seed} {of}")


def _of_concepts(drawings: Sequence[Drawing], concepts: Mapping[str, float]) -> list[Drawing]:
    wanted = Selection(concepts)
    return [drawing for drawing in drawings if wanted.weight(drawing.concept.slug) > 0]


def _first_of_each(drawings: Sequence[Drawing]) -> list[Drawing]:
    """The first drawing of every thing."""
    return list({drawing.concept.slug: drawing for drawing in reversed(drawings)}.values())[::-1]


def _with_own_names(drawings: Sequence[Drawing]) -> list[Drawing]:
    """No two things by one name: it stays with the thing whose first name it is, or else with the first that has it.

    A name of two drawings would be drawn as something between them. A thing without a name of its own keeps its names.
    """
    owner: dict[str, str] = {}
    for drawing in drawings:
        owner.setdefault(drawing.concept.names[0].text, drawing.concept.slug)
    for drawing in drawings:
        for name in (*drawing.concept.names, *drawing.concept.synonyms):
            owner.setdefault(name.text, drawing.concept.slug)
    found = []
    for drawing in drawings:
        concept = drawing.concept
        names, synonyms = (
            tuple(name for name in some if owner[name.text] == concept.slug)
            for some in (concept.names, concept.synonyms)
        )
        own = dataclasses.replace(concept, names=names or concept.names, synonyms=synonyms)
        found.append(dataclasses.replace(drawing, concept=own))
    return found
