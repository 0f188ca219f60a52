"""The tokenizer of a checkpoint: our own, or that of another family. Imports no torch.

tokenizer = parse_tokenizer(config, data, "tokenizer.json")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from model.config import CheckpointConfig
from model.errors import CheckpointError
from model.families.text.classes import ClassNames
from model.families.text.clip import ClipTokenizer
from model.families.text.huggingface import HuggingFaceTokenizer
from model.families.text.kakaobrain import KakaobrainTokenizer
from model.families.text.min_dalle import MinDalleTokenizer
from model.families.text.t5 import T5Tokenizer
from model.families.text.youtokentome import YouTokenToMe
from model.families.text.youtokentome_plain import PlainYouTokenToMe
from model.limits import shown
from model.tokenizer import Tokenizer


class AnyTokenizer(Protocol):
    """What the engine and the HTTP side ask of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    @property
    def null(self) -> list[int]:
        """The prompt of the unconditional half of guidance."""
        ...

    @property
    def specials(self) -> int:
        """How many ids `encode` adds to a text's tokens."""
        ...

    @property
    def max_tokens(self) -> int:
        """Tokens that a text may have, specials not counted."""
        ...

    def encode(self, text: str, truncate: bool = False) -> list[int]:
        """Ids of `text`, specials included, without padding. Raises PromptTooLong unless `truncate`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""
        ...

    def count(self, text: str) -> int:
        """Number of the text's tokens, specials not counted."""
        ...

    def to_bytes(self) -> bytes:
        """The content of tokenizer.json."""
        ...


class _Parses(Protocol):
    def parse(self, data: bytes, where: str, max_tokens: int) -> AnyTokenizer: ...


KINDS: dict[str, _Parses] = {
    ClipTokenizer.kind: ClipTokenizer,
    HuggingFaceTokenizer.kind: HuggingFaceTokenizer,
    MinDalleTokenizer.kind: MinDalleTokenizer,
    YouTokenToMe.kind: YouTokenToMe,
    PlainYouTokenToMe.kind: PlainYouTokenToMe,
    ClassNames.kind: ClassNames,
    T5Tokenizer.kind: T5Tokenizer,
    KakaobrainTokenizer.kind: KakaobrainTokenizer,
}


def parse_tokenizer(config: CheckpointConfig, data: bytes, where: str) -> AnyTokenizer:
    """The tokenizer in the bytes of a tokenizer.json. where: names the file. Raises CheckpointError."""
    if config.tokenizer is None:
        return Tokenizer.parse(data, where, config.transformer.text_tokens)
    kind = config.tokenizer.kind
    if kind not in KINDS:
        raise CheckpointError(f"{where}: tokenizer.kind must be one of {', '.join(KINDS)}, got {shown(kind)}")
    return KINDS[kind].parse(data, where, config.transformer.text_tokens)
