"""The objects that all parts of an evaluation share: the painter, the drawings, the judge, and the painted pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TypeVar

import numpy as np
from PIL import Image

from model.painter import Painter
from model.recipes.default.evaluation.album import Album
from model.recipes.default.evaluation.drawings import Drawings, Line, Thing
from model.recipes.default.evaluation.ink import cut_out
from model.recipes.default.evaluation.judge import Ints, Judge, Prototypes, Vectors
from model.training.pairing import Entry
from model.training.selection import Selection, read_concepts

T = TypeVar("T")
READ_AT_ONCE = 64  # pictures of the corpus
Progress = Callable[
    [str, int, int], object
]  # called with what is being done, how much of it is done, and how much there is


@dataclass(frozen=True)
class Options:
    """How much is measured. The numbers are upper bounds, because a corpus may be small."""

    concepts: int = 500  # things that the judge has to tell apart, and at most as many concept prompts
    compositions: int = 200  # prompts for each of backgrounds, counts and pairs
    pictures: int = 500  # held-out drawings for stage 1 and for the loss
    codes: int | None = None  # pictures whose codes are counted; None: all of the corpus
    seeds: int = 4  # pictures a prompt, for best_of and diversity
    various: int = 50  # things painted with several seeds for diversity
    seed: int = 0
    guidance: float | None = None  # None takes the checkpoint's, here and below
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    revise: bool = True  # prompts are revised if the checkpoint has a reviser


QUICK = Options(concepts=30, compositions=12, pictures=24, codes=100, seeds=2, various=6)


class Context:
    """Each object is made when it is first used. So stage 1 makes no judge, and stage 2 reads no held-out vendor."""

    def __init__(
        self,
        painter: Painter,
        data: Sequence[Path],
        out: Path,
        options: Options,
        progress: Progress,
        held_out: Path | None = None,
        known: Path | None = None,
    ) -> None:
        """out: folder for pictures and features. held_out: folder of a vendor that was never trained on, for stage 1.

        known: file of the concepts that the model was trained on, one a line; x* stands for all that begin with x. None
        for all concepts.
        """
        self.painter, self.options, self.out, self.held_out = painter, options, out, held_out
        self._known = Selection(read_concepts(known)) if known else None
        self.progress = progress
        self._data = data
        self._seen: dict[Entry, Vectors] = {}

    @cached_property
    def drawings(self) -> Drawings:
        self.progress("reading the corpus", 0, 1)
        return Drawings(self._data, self._known)

    @cached_property
    def album(self) -> Album:
        o = self.options
        params = self.painter.sampling(0, o.temperature, o.top_k, o.top_p, o.guidance)
        return Album(self.painter, self.out / "pictures", o.seed, params, revise=o.revise)

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.out / "features.npz", self.painter.device)

    @cached_property
    def _chosen(self) -> tuple[list[Thing], list[Thing]]:
        return self.drawings.choose(self.options.concepts, self.options.seed)

    @property
    def tested(self) -> list[Thing]:
        """The things that prompts ask for. The number of a thing is its index here."""
        return self._chosen[0]

    @cached_property
    def things(self) -> list[Thing]:
        """All things that the judge knows, the tested ones first."""
        return [*self._chosen[0], *self._chosen[1]]

    @cached_property
    def number(self) -> dict[str, int]:
        """Concept of the corpus -> number of its thing. Only concepts whose thing the judge knows are in it."""
        return {slug: i for i, thing in enumerate(self.things) for slug in thing.slugs}

    @cached_property
    def prototypes(self) -> Prototypes:
        lines = [(i, line) for i, thing in enumerate(self.things) for line in thing.drawings]
        features = self.see_lines([line for _, line in lines])
        return Prototypes(features, [i for i, _ in lines], [line.family for _, line in lines])

    @property
    def has_things(self) -> bool:
        """Whether a part has used the things."""
        return "_chosen" in self.__dict__

    def finish(self) -> None:
        """Save what the judge has computed. Called after each part."""
        if "judge" in self.__dict__:
            self.judge.save()

    def random(self, what: str) -> Random:
        """The random generator of one part. Its choices do not depend on which other parts run."""
        return Random(f"{self.options.seed} {what}")

    def sample(self, what: str, items: Sequence[T], number: int) -> list[T]:
        """All items, or a random sample of `number` of them, in their order."""
        if len(items) <= number:
            return list(items)
        return [items[i] for i in sorted(self.random(what).sample(range(len(items)), number))]

    def others(self, what: str, count: int) -> list[int]:
        """A random permutation of `count` indices without a fixed point, for the shuffled prompts of a baseline.

        It is a single cycle (Sattolo 1986).
        """
        random, indices = self.random(f"others: {what}"), list(range(count))
        for at in range(count - 1, 0, -1):
            other = random.randrange(at)
            indices[at], indices[other] = indices[other], indices[at]
        return indices

    def look(self, pictures: Sequence[Image.Image]) -> Vectors:
        """The judge's features of pictures as they are, (n, width)."""
        return self.judge.features(pictures, lambda done, total: self.progress("looking at pictures", done, total))

    def see(self, pictures: Sequence[Image.Image]) -> Vectors:
        """The judge's features of the thing cut out of each picture, (n, width). A blank picture is taken as it is."""
        return self.look([cut_out(picture) or picture for picture in pictures])

    def see_lines(self, lines: Sequence[Line]) -> Vectors:
        """The same features of pictures of the corpus. The pictures are read a few at a time, and only once."""
        missing = [line for line in dict.fromkeys(lines) if line.entry not in self._seen]
        for first in range(0, len(missing), READ_AT_ONCE):
            self.progress("looking at real drawings", first, len(missing))
            part = missing[first : first + READ_AT_ONCE]
            things = [cut_out(picture) or picture for picture in (line.picture() for line in part)]
            self._seen.update(zip((line.entry for line in part), self.judge.features(things), strict=True))
        return np.stack([self._seen[line.entry] for line in lines])

    def ranks(self, pictures: Sequence[Image.Image], things: Sequence[int]) -> Ints:
        """The rank, 1 for the nearest, of the given thing for each picture, (n,)."""
        return self.prototypes.ranks(self.see(pictures), things)

    def paint(self, prompts: Sequence[str], n: int = 1, style: str | None = None) -> list[list[Image.Image]]:
        """Pictures 0 to n - 1 of each prompt. style: as in `Album.paint`."""
        painted = self.album.paint(prompts, n, lambda done, total: self.progress("painting", done, total), style)
        return [[painting.image for painting in row] for row in painted]
