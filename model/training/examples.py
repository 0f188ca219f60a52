"""Captioned pictures as tokens, for stage 2 and the reranker: prepared ones, drawn at random by their shares; or
streamed, in order.

Both give the sample of a place in a batch as a function of (seed, step, place) alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from model.errors import DataError
from model.training.data import Captions
from model.training.filters import Rules
from model.training.lanes import Lanes, count_lanes, digest
from model.training.loop import LoopOptions, Place, first_goes_first
from model.training.prepare import Prepared, prepare, tokenize
from model.training.selection import Selection, choose
from model.training.token_shards import TokenShard, token_shards
from model.vae import VAE

Ids = npt.NDArray[np.int64]
MEASURED = 64  # held-out pictures that a run looks at
_OPEN_SHARDS = 96  # a few more than are mixed at a time: each takes three file descriptors
_TEXTS = 1_000_000  # captions that a tokenizer is trained on


@dataclass(frozen=True)
class Example:
    """A picture's captions, at least one, its tokens, (grid * grid,), and what it shows, where that is said.

    kind: "single", a thing alone on white, or what else the corpus composes (`corpus.compose`).
    """

    captions: Captions
    image: Ids
    concept: str | None = None
    kind: str = "single"

    @classmethod
    def of(cls, line: Mapping[str, Any], image: npt.NDArray[Any]) -> Example:
        """From a line of captions.jsonl."""
        concept = line.get("concept")
        kind = str(line.get("kind", "single"))
        return cls(line["captions"], image.astype(np.int64), None if concept is None else str(concept), kind)


class Examples(Protocol):
    """What stage 2 and the reranker learn from."""

    def draw(self, step: int, place: int, random: np.random.Generator, mirror: float) -> Example:
        """The sample at `place` of the batch of `step`; mirrored with chance `mirror`, if it may be."""
        ...

    def held_out(self, most: int = MEASURED) -> Iterator[Example]:
        """At most so many pictures that are not learnt from."""
        ...

    def captions(self) -> Iterator[str]:
        """Texts to train a tokenizer on."""
        ...

    def position(self, step: int) -> dict[str, Any]:
        """Where `step` begins, for the saved state."""
        ...


class Asked(Protocol):
    """The fields of a stage's options that say what it learns from."""

    @property
    def data(self) -> tuple[Path, ...]: ...
    @property
    def loop(self) -> LoopOptions: ...
    @property
    def selection(self) -> Selection: ...
    @property
    def cache(self) -> Path: ...
    @property
    def rules(self) -> Rules: ...
    @property
    def stream(self) -> bool: ...


def find_examples(options: Asked, vae: VAE, place: Place) -> Examples:
    """What these options name, as tokens. Raises DataError."""
    if options.stream:
        if options.selection != Selection():
            raise DataError("a stream gives every picture once an epoch: no selection by concept, source or mix")
        shards = token_shards(options.data, vae, options.cache, options.rules, place)
        return StreamedExamples(shards, options.loop.batch, options.loop.seed, place.world)
    with first_goes_first(place):
        prepared = prepare(options.data, options.cache, options.rules)
        tokens = tokenize(prepared, vae, place.device)
    return PreparedExamples(prepared, tokens, options.selection)


class PreparedExamples:
    """Drawn from arrays on disk by the shares that a selection gives them."""

    def __init__(self, prepared: Prepared, tokens: tuple[Any, Any], selection: Selection) -> None:
        self.prepared, self.tokens, self.selection = prepared, tokens, selection
        self.rows, shares = choose(prepared, selection)
        self.edges = np.cumsum(shares)

    def draw(self, step: int, place: int, random: np.random.Generator, mirror: float) -> Example:  # noqa: ARG002
        """See `Examples`; `random` is of this step and place."""
        row = int(self.rows[min(int(np.searchsorted(self.edges, random.random())), len(self.rows) - 1)])
        line = self.prepared.lines[row]
        mirrored = bool(line.get("mirror", False)) and random.random() < mirror
        return Example.of(line, self.tokens[int(mirrored)][row])

    def held_out(self, most: int = MEASURED) -> Iterator[Example]:
        """See `Examples`: of those that the selection takes."""
        rows = [row for row in self.prepared.rows("val") if self.selection.takes(self.prepared.lines[row])]
        for row in rows[:most]:
            yield Example.of(self.prepared.lines[row], self.tokens[0][row])

    def captions(self) -> Iterator[str]:
        """See `Examples`: all of the training split."""
        for row in self.prepared.rows("train"):
            yield from (text for _, text in self.prepared.lines[row]["captions"])

    def position(self, step: int) -> dict[str, Any]:  # noqa: ARG002
        """See `Examples`: nothing but the step."""
        return {}


class StreamedExamples:
    """Read from token shards in the order of their lanes: every picture once an epoch."""

    def __init__(self, shards: Sequence[TokenShard], batch: int, seed: int, world: int) -> None:
        """batch: of all processes. world: how many these are. Raises DataError when they cannot share the shards."""
        self.shards = shards
        self.names = [shard.folder.name for shard in shards]
        sizes = [len(shard.rows) for shard in shards]
        self.lanes = Lanes(sizes, batch, count_lanes(len(shards), batch, world), seed)
        self.opened = lru_cache(maxsize=_OPEN_SHARDS)(lambda number: replace(shards[number]))

    def draw(self, step: int, place: int, random: np.random.Generator, mirror: float) -> Example:
        """See `Examples`."""
        at = self.lanes.at(step, place)
        shard = self.opened(at.shard)
        row = int(shard.rows[at.row])
        line = shard.line(row)
        mirrored = bool(line.get("mirror", False)) and random.random() < mirror
        return Example.of(line, shard.tokens(row, mirrored))

    def held_out(self, most: int = MEASURED) -> Iterator[Example]:
        """See `Examples`: of the first shards."""
        places = ((number, int(row)) for number, shard in enumerate(self.shards) for row in shard.held_out)
        for number, row in islice(places, most):
            shard = self.opened(number)
            yield Example.of(shard.line(row), shard.tokens(row))

    def captions(self) -> Iterator[str]:
        """See `Examples`: as many of every shard."""
        share = -(-_TEXTS // len(self.shards))
        for number, shard in enumerate(self.shards):
            lines = (self.opened(number).line(int(row)) for row in shard.rows)
            texts = chain.from_iterable([text for _, text in line["captions"]] for line in lines)
            yield from islice(texts, share)

    def position(self, step: int) -> dict[str, Any]:
        """See `Examples`: a name of the shards, and for each lane its epoch, shard and row."""
        return {"shards": digest(self.names, self.lanes.sizes), **self.lanes.describe(step, self.names)}
