"""What the transformers of LlamaGen are. Knows no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Interval

from model.families.ordinary import OrdinaryDecoder
from model.sizes import Codes, Grid, HeadDim, Heads, Layers, TextTokens, Vocabulary, Width


@dataclass(frozen=True)
class DecoderConfig(OrdinaryDecoder):
    """A decoder over a prompt, then the image tokens in raster order (2406.06525)."""

    image_vocab: Codes
    dim: Width
    depth: Layers
    heads: Heads
    hidden: Width  # width within a feed-forward
    grid: Grid  # image tokens a side

    def __post_init__(self) -> None:
        if self.dim % (4 * self.heads):
            asked = f"heads must divide dim {self.dim} into multiples of 4, as positions by row and column need"
            raise ValueError(f"{asked}, got {self.heads}")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.heads

    @property
    def text_columns(self) -> int:
        """Columns of `logits` in front of the image vocabulary: none, as no text is written."""
        return 0

    @property
    def max_ids(self) -> int:
        """The most ids a prompt may have."""
        return self.max_text

    @property
    def min_ids(self) -> int:
        """The fewest ids a prompt may have."""
        return 1


@dataclass(frozen=True)
class LlamaGenConfig(DecoderConfig):
    """Its prompt is one id: that of a class, or the one after the last class, which stands for none."""

    family: ClassVar[str] = "llamagen"
    text_tokens: ClassVar[int] = 1  # ids of a prompt

    classes: Annotated[int, Interval(ge=1, le=2**20 - 1)]  # that can be painted

    @property
    def text_vocab(self) -> int:
        """Ids of a prompt: the classes, and the one that stands for none."""
        return self.classes + 1

    @property
    def max_text(self) -> int:
        """Positions of a prompt."""
        return 1


@dataclass(frozen=True)
class T5Config:
    """The encoder of a T5 with gated feed-forwards, as FLAN-T5 has (1910.10683, 2210.11416)."""

    vocab: Vocabulary  # rows of its table; the tokenizer may have fewer ids
    dim: Width
    depth: Layers
    heads: Heads
    head_dim: HeadDim
    hidden: Width  # width within a feed-forward
    buckets: Annotated[int, Interval(ge=4, le=1024)] = 32  # of distances, to both sides together
    distance: Annotated[int, Interval(ge=2, le=2**20)] = 128  # from which on all are in the last bucket

    def __post_init__(self) -> None:
        if self.buckets % 4 or self.distance <= self.buckets // 4:
            asked = f"buckets must be a multiple of 4, less than 4 times the distance {self.distance}"
            raise ValueError(f"{asked}, got {self.buckets}")


@dataclass(frozen=True)
class LlamaGenTextConfig(DecoderConfig):
    """Its prompt is a text, which a T5 reads first. A text takes as many positions as it has ids.

    Padding stands behind a text, and takes no position. Ids of padding alone are the null prompt of as many positions.
    """

    family: ClassVar[str] = "llamagen-text"
    pad: ClassVar[int] = 0

    encoder: T5Config
    text_tokens: TextTokens = 119  # of a text; </s> comes on top

    @property
    def text_vocab(self) -> int:
        """Ids of a text."""
        return self.encoder.vocab

    @property
    def max_text(self) -> int:
        """The most positions of a text, with </s>."""
        return self.text_tokens + 1

    def text_positions(self, ids: int) -> int:
        """Cached positions of a text of so many ids, padding not counted."""
        return ids

    def length(self, ids: Sequence[int]) -> int:
        """How many of the ids are not the padding behind them; all of them, where there is nothing else."""
        some = [place for place, number in enumerate(ids, 1) if number != self.pad]
        return some[-1] if some else len(ids)

    def null_of(self, null: Sequence[int], ids: Sequence[int]) -> tuple[int, ...]:
        """The null prompt beside a text of these ids: as long as the text.

        generate.py hides the null caption where the text has padding, so it is read as far as the text goes.
        """
        return tuple(null) * self.length(ids)
