"""Batches of the transformer: sequences with image tokens that are withheld and weighed, and text-only targets.

A `Draws` decides which pictures and which texts come. `ExampleDraws` draws them one after another on the host, from any
`Examples`. `resident.ResidentDraws` draws them all at once where they lie, on a GPU. What follows is done for the whole
batch, on the device of the draws: no shape depends on values, and nothing is read back from the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from model.config import AnyTransformerConfig
from model.tokenizers import AnyTokenizer
from model.training.clutter import UNKNOWN, clutter
from model.training.data import sample_caption
from model.training.examples import Examples, padded
from model.training.options import TransformerOptions

TEXT_ONLY_GROUPS = 8  # groups of a picture that are predicted from a text alone
EDGE = 2  # tokens at a picture's edges on which hardly anything is drawn
# Kinds whose later part follows from the earlier one.
ONE_THING = ("single", "styled", "background", "recolour", "dyed")


@dataclass(frozen=True)
class TextOnly:
    """Text-only targets: texts, and a few groups of tokens of the picture of each."""

    text: Tensor  # (n, t) int64
    lengths: Tensor  # (n,)
    steps: Tensor  # (n, TEXT_ONLY_GROUPS) int64: which groups, ascending
    image: Tensor  # (n, TEXT_ONLY_GROUPS * group) int64: their tokens


@dataclass(frozen=True)
class Batch:
    """Whole sequences, padded, and text-only targets."""

    text: Tensor  # (b, t) int64
    lengths: Tensor  # (b,)
    image: Tensor  # (b, grid * grid) int64
    seen: Tensor  # (b, grid * grid) float32, 0 where an image token is withheld as an input
    loss_weights: Tensor  # (b, grid * grid) float32: of each image token; 0 for easy ones that are left out
    plain: Tensor | None = None  # (b,) bool: unchanged captions, the only ones that the text loss is of; None for all
    text_only: TextOnly | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Told:
    """Texts, each with a picture."""

    text: Tensor  # (n, t) int64, padded on the right
    lengths: Tensor  # (n,)
    image: Tensor  # (n, grid * grid) int64

    @classmethod
    def of(cls, pairs: Sequence[tuple[list[int], Any]]) -> Told:
        """Of n pairs of text ids and image ids."""
        texts, images = zip(*pairs, strict=True)
        arrays = padded(texts), np.array(list(map(len, texts))), np.stack(images)
        return cls(*map(torch.from_numpy, arrays))


@dataclass(frozen=True)
class Drawn:
    """What is drawn for a batch.

    plain (b,) bool: captions that are unchanged. contradicted (b,) bool: captions of another picture. text_only: the
    further texts, `glimpses` of them for each picture.
    """

    told: Told
    plain: Tensor
    contradicted: Tensor
    text_only: Told | None = None


class Draws(Protocol):
    """Which pictures and texts are in a batch: a function of (seed, step, index)."""

    def __call__(self, step: int, first: int, end: int, random: torch.Generator) -> Drawn:
        """Items first to end of the batch of `step`. random: of this step, on `device`."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the draws lie."""
        ...


def easy(image: Tensor, grid: int) -> Tensor:
    """(..., grid * grid) ids -> bool: tokens equal to those left, above, above left and above right of them."""
    cells = image.view(*image.shape[:-1], grid, grid)
    same = torch.zeros_like(cells, dtype=torch.bool)
    centre = cells[..., 1:, 1:-1]
    same[..., 1:, 1:-1] = (
        (centre == cells[..., 1:, :-2]) & (centre == cells[..., :-1, 1:-1])
        & (centre == cells[..., :-1, :-2]) & (centre == cells[..., :-1, 2:])
    )  # fmt: skip
    return same.view(image.shape)


def late(image: Tensor, grid: int, share: Tensor) -> Tensor:
    """(b, grid * grid) ids, share (b,) -> bool: tokens after that share of the drawing.

    Only tokens that are not `easy` count as drawing. Tokens at the edges do not count: nothing is drawn there, but they
    differ by the VAE's padding, so `easy` does not find them.
    """
    place = torch.arange(grid, device=image.device)
    inside = (place >= EDGE) & (place < grid - EDGE)
    drawn = (~easy(image, grid) & (inside[:, None] & inside).flatten()).cumsum(1)
    return drawn > share[:, None] * drawn[:, -1:]


class ExampleDraws:
    """Draws from `examples`, one item after another, on the host."""

    device = torch.device("cpu")

    def __init__(self, examples: Examples, tokenizer: AnyTokenizer, options: TransformerOptions) -> None:
        self.examples, self.tokenizer, self.options = examples, tokenizer, options

    def __call__(self, step: int, first: int, end: int, random: torch.Generator) -> Drawn:  # noqa: ARG002
        """See `Draws`. Each item has a generator of its own."""
        pairs, plain, contradicted = zip(*(self.item(step, index) for index in range(first, end)), strict=True)
        keys = [(step, index, which) for index in range(first, end) for which in range(self.options.glimpses)]
        text_only = Told.of([self._text_only(*key) for key in keys]) if keys else None
        return Drawn(Told.of(pairs), torch.tensor(plain), torch.tensor(contradicted), text_only)

    def held_out(self) -> Iterator[tuple[list[int], Any]]:
        """Held-out pictures, each with the first of its captions."""
        for example in self.examples.held_out():
            yield self.tokenizer.encode(example.captions[0][1], truncate=True), example.image

    def item(self, step: int, index: int) -> tuple[tuple[list[int], Any], bool, bool]:
        """Text ids and image ids; whether the caption is unchanged; whether it is another picture's."""
        options = self.options
        random = np.random.default_rng((options.loop.seed, step, index))
        example = self.examples.draw(step, index, random, options.mirror)
        image, caption = example.image, sample_caption(example.captions, random)
        contradicted = options.contradict > 0 and random.random() < options.contradict and example.kind in ONE_THING
        if contradicted:
            other = self.examples.draw(step, (index + 1) % options.loop.batch, random, options.mirror)
            caption, example = sample_caption(other.captions, random), other
        dropped = random.random() < options.null_captions
        cluttered = random.random() < options.clutter or (options.clutter > 0 and example.concept == UNKNOWN)
        if cluttered:
            caption = as_typed(caption, example.concept, example.kind, random)
        text = self.tokenizer.null if dropped else self.tokenizer.encode(caption, truncate=True)
        return (text, image), not (dropped or cluttered or contradicted), contradicted

    def _text_only(self, step: int, index: int, which: int) -> tuple[list[int], Any]:
        random = np.random.default_rng((self.options.loop.seed, step, index, which))
        example = self.examples.draw(step, index, random, self.options.mirror)
        caption = sample_caption(example.captions, random)
        if self.options.clutter > 0:
            caption = as_typed(caption, example.concept, example.kind, random)
        return self.tokenizer.encode(caption, truncate=True), example.image


def as_typed(caption: str, concept: str | None, kind: str, random: np.random.Generator) -> str:
    """The caption, cluttered. What evokes the concept says nothing of a composition, so only a single thing has it."""
    return clutter(caption, random, (concept or "") if kind == "single" else "")


class Batches:
    """batch_at(step, first, end): items first to end of the batch. Each is a function of (seed, step, index)."""

    def __init__(self, draws: Draws, options: TransformerOptions, config: AnyTransformerConfig) -> None:
        self.draws, self.options, self.config = draws, options, config

    def __call__(self, step: int, first: int, end: int) -> Batch:
        options, device = self.options, self.draws.device
        seed = np.random.SeedSequence((options.loop.seed, step)).generate_state(1, np.uint64)
        random = torch.Generator(device).manual_seed(int(seed[0]))
        drawn = self.draws(step, first, end, random)
        image = drawn.told.image

        def uniform(*shape: int) -> Tensor:  # drawn for all processes, so that their number changes nothing
            return torch.rand(options.loop.batch, *shape, generator=random, device=device)[first:end]

        kind, share, begun = uniform(3).unbind(1)
        share = torch.where(kind < (1 + options.blind) / 2, share * options.withhold, 0.0)
        share = torch.where(kind < options.blind, 1.0, share).masked_fill(drawn.contradicted, 0.0)
        seen = uniform(image.shape[1]) >= share[:, None]  # all tokens are withheld, some of them, or none
        repeated = easy(image, self.config.grid)
        left_out = repeated & (uniform(image.shape[1]) >= options.easy_share)
        # A contradicted picture is learnt from where enough of it is drawn to tell what it is.
        left_out |= drawn.contradicted[:, None] & ~late(image, self.config.grid, 0.03 + 0.67 * begun)
        loss_weights = torch.where(repeated, 1 / options.easy_share, 1.0).masked_fill(left_out, 0.0)
        batch = Batch(drawn.told.text, drawn.told.lengths, image, seen.float(), loss_weights, drawn.plain)
        if drawn.text_only is None:
            return batch
        return replace(batch, text_only=self._groups(drawn.text_only, uniform(options.glimpses, self.config.steps)))

    def _groups(self, told: Told, uniform: Tensor) -> TextOnly:
        """Of each picture a few ascending groups in which something is drawn.

        A few tokens tell what a picture shows, so many texts are learnt for the cost of one picture. uniform (b,
        glimpses, steps): numbers from 0 to 1. Groups are drawn without replacement by an exponential race (Efraimidis
        and Spirakis, 2006).
        """
        groups = told.image.view(len(told.image), self.config.steps, self.config.group)
        blank = easy(told.image, self.config.grid).view(groups.shape).all(-1)
        chances = torch.where(blank, 1e-6, 1.0) / -uniform.flatten(0, 1).log()
        steps = chances[:, 1:].topk(TEXT_ONLY_GROUPS).indices.sort(1).values + 1  # the first is predicted at <eot>
        image = groups.gather(1, steps.unsqueeze(-1).expand(-1, -1, groups.shape[2]))
        return TextOnly(told.text, told.lengths, steps, image.flatten(1))
