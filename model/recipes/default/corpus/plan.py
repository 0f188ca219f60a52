"""Plans a corpus: which things are shown, and in which compositions.

    plan = Plan(backgrounds=2, pairs=4)
    listed, plain = plan.chosen(drawings)
    pictures = plan.pictures(listed, plain, plan.in_other_colours(listed))

Every choice depends only on the seed and on the keys of the drawings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from model.drawings.compose import Drawing, Picture, on_backgrounds, single
from model.errors import DataError
from model.training.selection import Selection

from .compositions import SHARES, compositions, dyes, hold_out, plain_shapes, shapes, together

DYED_BACKGROUNDS = 2  # few are enough, because its colour and the backgrounds are also learnt from other pictures


@dataclass(frozen=True)
class Plan:
    """What the corpus shows.

    selection: "common" is the everyday things by the emoji vendors (about 8000 pictures, four minutes on two cores).
        "full" is all sources. "eval" is the held-out vendor, whose share-alike licence forbids training on it.
    seed: decides every choice.
    backgrounds: each drawing is also shown on so many named colours, in the box of a thing alone.
    pairs: each drawing is also shown in at most so many pairs, and two to five times. With 0 only some things, drawn at
        random, are counted or put into pairs.
    concepts: only drawings of these are used, as in `Selection`; empty for all.
    paired: only these of them are counted and put into pairs; empty for all.
    in_colours: each drawing with a main colour is also shown in so many other colours, on white and on at most
        DYED_BACKGROUNDS named colours.
    dyed: only these things are shown in other colours; empty for all.
    one_each: only the first drawing of each thing is used, and each name for one thing only. An emoji (a red circle) is
        preferred to our own shape of the same name.
    say_style: every caption of a thing alone names its style ("a 3d cat"), so that "a cat" can mean another style.
    kinds: only pictures of these kinds are made; empty for all.
    """

    selection: str = "common"
    seed: int = 0
    backgrounds: int = 0
    pairs: int = 0
    concepts: Mapping[str, float] = field(default_factory=dict)
    paired: Mapping[str, float] = field(default_factory=dict)
    in_colours: int = 0
    dyed: Mapping[str, float] = field(default_factory=dict)
    one_each: bool = False
    say_style: bool = False
    kinds: Collection[str] = ()

    def chosen(self, drawings: Sequence[Drawing]) -> tuple[list[Drawing], list[Drawing]]:
        """(the drawings that the plan uses, the plain shapes). The shapes are our own drawings."""
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
        """The concepts of the plan that none of these drawings shows."""
        return sorted(name for name in self.concepts if not _of_concepts(drawings, {name: 1.0}))

    def in_other_colours(self, drawings: Sequence[Drawing]) -> list[Picture]:
        """Pictures of these drawings, dyed. Empty if the plan asks for none."""
        if not self.in_colours:
            return []
        taken = {name.text for drawing in drawings for name in drawing.concept.names}
        backgrounds = min(self.backgrounds, DYED_BACKGROUNDS)
        return [
            one
            for drawing in _of_concepts(drawings, self.dyed)
            for one in dyes(self._random(f"{drawing.key} dyes"), drawing, self.in_colours, backgrounds, taken)
        ]

    def pictures(
        self, drawings: Sequence[Drawing], plain: Sequence[Drawing], coloured: Sequence[Picture] = ()
    ) -> list[Picture]:
        """All pictures of the corpus, in the order of the shards. Raises DataError for a kind that no picture has."""
        pictures = self._all(drawings, plain, coloured)
        if unknown := set(self.kinds) - (made := {picture.kind for picture in pictures}):
            raise DataError(f"kinds must be of {', '.join(sorted(made))}, got {', '.join(sorted(unknown))}")
        return [picture for picture in pictures if not self.kinds or picture.kind in self.kinds]

    def _all(self, drawings: Sequence[Drawing], plain: Sequence[Drawing], coloured: Sequence[Picture]) -> list[Picture]:
        pictures = [single(drawing, self.say_style) for drawing in drawings]
        if self.selection == "eval":
            return [dataclasses.replace(picture, kind="eval", split="eval") for picture in pictures]
        pictures += shapes(self._random("shapes"), plain, full_size=self.one_each)
        shares = SHARES[self.selection] | (dict.fromkeys(("pair", "count"), 0.0) if self.pairs else {})
        pictures += compositions(self._random("compositions"), drawings, shares)
        if self.pairs:
            paired = _of_concepts(drawings, self.paired)
            pictures += together(self._random("together"), paired, self.pairs, named=bool(self.paired))
        for drawing in drawings:
            pictures += on_backgrounds(self._random(drawing.key), drawing, self.backgrounds)
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
    """The drawings, with each name left to one thing only. A model would draw a mixture for a name of two things.

    A name stays with the thing whose first name it is. If there is none, it stays with the first thing that has it. A
    thing that would lose all its names keeps them.
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
