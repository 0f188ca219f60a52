"""What a transformer of DALLE-pytorch is: its sizes, and what each of its layers does. Knows no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Interval, Len

from model.families.ordinary import OrdinaryDecoder
from model.limits import shown
from model.sizes import Codes, Grid, HeadDim, Heads, Layers, TextTokens, Vocabulary, Width

FULL, ROW, COLUMN, CONV, CONV_CENTRED, MLP = "full", "axial_row", "axial_col", "conv_like", "conv_centred", "mlp"
KINDS = (FULL, ROW, COLUMN, CONV, CONV_CENTRED, MLP)

Kind = Annotated[str, Len(1, 16)]
Shared = Annotated[int, Interval(ge=0, le=255)]


@dataclass(frozen=True)
class DallePytorchConfig(OrdinaryDecoder):
    """A decoder over <bos>, the text's tokens, then the image tokens in raster order.

    Every text fills all its positions: where a text has id 0, or has ended, stands an id that only that position has.
    So a sequence has text_tokens + 1 text positions, always.
    """

    family: ClassVar[str] = "dalle-pytorch"

    text_vocab: Vocabulary  # ids of the text tokenizer; the ids of the padding come on top
    text_tokens: TextTokens  # text ids that are read, <bos> not counted
    image_vocab: Codes
    grid: Grid  # image tokens a side
    dim: Width
    depth: Layers
    heads: Heads
    head_dim: HeadDim
    # What each layer does where others attend. "full": all earlier positions. The others see all of the text, and of
    # the picture: "axial_row" its own row, "axial_col" its own column, "conv_like" the 5 x 5 window that ends at the
    # position (DALLE-pytorch 1.5.0 on), "conv_centred" the earlier part of the 5 x 5 window around it (until 1.4.2).
    # "mlp": a gated MLP over all earlier positions (gMLP, 2105.08050), in place of attention.
    attention: Annotated[tuple[Kind, ...], Len(1, 256)]
    rotary: bool = False  # rotary positions; else learned ones
    shift: bool = False  # each layer sees parts of the token to the left and of the one above
    stable: bool = False  # the output is divided by its largest value
    sandwich: bool = False  # a norm after each part of a layer too
    reversible: bool = False  # two streams; the output is their mean
    tied: bool = False  # the tables of the ids are the rows of the output's matrix
    shared_attention: Annotated[tuple[Shared, ...], Len(0, 256)] = ()  # which attention a layer uses; (): its own
    shared_feed: Annotated[tuple[Shared, ...], Len(0, 256)] = ()  # which feed-forward

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.attention if kind not in KINDS]
        if unknown:
            raise ValueError(f"attention: must be of {', '.join(KINDS)}, got {shown(unknown[0])}")
        if len(self.attention) != self.depth:
            raise ValueError(
                f"attention: must have one kind for each of {self.depth} layers, got {len(self.attention)}"
            )
        for name, of in (("shared_attention", self.shared_attention), ("shared_feed", self.shared_feed)):
            if of and len(of) != self.depth:
                raise ValueError(f"{name}: must have one number for each of {self.depth} layers, got {len(of)}")
            if any(number > max((-1, *of[:i])) + 1 for i, number in enumerate(of)):
                raise ValueError(f"{name}: must count up from 0 in the order of the layers, got {shown(of)}")
        for number, kind in zip(self.attention_of, self.attention, strict=True):
            first = self.attention[self.attention_of.index(number)]
            if kind != first:
                raise ValueError(f"shared_attention: layers that share one must be of one kind, got {first} and {kind}")
        if self.rotary and MLP in self.attention:
            raise ValueError("rotary: must be false where a layer is of the kind mlp")
        if self.shift and self.dim < 4:
            raise ValueError(f"dim: must be at least 4 where shift is true, got {self.dim}")

    @property
    def attention_of(self) -> Sequence[int]:
        """For each layer the number of the attention that it uses."""
        return self.shared_attention or range(self.depth)

    @property
    def feed_of(self) -> Sequence[int]:
        """For each layer the number of the feed-forward that it uses."""
        return self.shared_feed or range(self.depth)

    def buffer_of(self, layer: int) -> int:
        """The place of a layer among those that are cached like it: those that attend, or the gated ones."""
        gated = self.attention[layer] == MLP
        return sum((kind == MLP) == gated for kind in self.attention[:layer])

    @property
    def text_columns(self) -> int:
        """Text ids that can be written: the tokenizer's, and one of padding for each position."""
        return self.text_vocab + self.text_tokens

    @property
    def max_text(self) -> int:
        """Text positions: <bos> and the ids."""
        return self.text_tokens + 1

    @property
    def min_ids(self) -> int:
        """The fewest ids a text may have."""
        return 0

    @property
    def max_ids(self) -> int:
        """The most ids a text may have."""
        return self.text_tokens

    @property
    def turned(self) -> int:
        """Dimensions of a head that rotary positions turn: three times a third, each rounded down to pairs."""
        return 6 * (self.head_dim // 3 // 2) if self.rotary else 0
