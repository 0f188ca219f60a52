"""Which tokenizer a checkpoint's tokenizer.json is for. Knows no tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Len


@dataclass(frozen=True)
class TextConfig:
    """The section "tokenizer" of config.json. kind: a key of `model.tokenizers.KINDS`."""

    kind: Annotated[str, Len(1, 32)]
