"""The tokenizer of kakaobrain's minDALL-E: the CharBPETokenizer of the `tokenizers` library. Imports no torch.

Facts: dalle/models/tokenizer.py of github.com/kakaobrain/minDALL-E.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

from tokenizers.implementations.char_level_bpe import CharBPETokenizer

from model.errors import CheckpointError
from model.families.text.bpe import check_vocabulary
from model.families.text.huggingface import HuggingFaceTokenizer
from model.texts import check_merges

PAD, UNKNOWN = "[PAD]", "[UNK]"


class KakaobrainTokenizer(HuggingFaceTokenizer):
    """Texts in lower case, in characters whose last of a word is marked. Padding is the token [PAD]."""

    kind: ClassVar[str] = "kakaobrain"

    @classmethod
    def of(cls, values: Any, where: str, max_tokens: int) -> KakaobrainTokenizer:
        """The tokenizer of a tokenizer.json's values. Raises CheckpointError naming the file and what is wrong."""
        made = super().of(values, where, max_tokens)
        assert isinstance(made, KakaobrainTokenizer)
        pad = made._tokenizer.token_to_id(PAD)
        if pad is None:
            raise CheckpointError(f"{where}: the token {PAD} is missing")
        made.pad = pad
        return made

    @classmethod
    def read(
        cls, vocabulary: object, merges: str, of_vocabulary: str, of_merges: str, max_tokens: int
    ) -> KakaobrainTokenizer:
        """That of bpe-16k-vocab.json and bpe-16k-merges.txt. of_vocabulary, of_merges: the files' names.

        Raises CheckpointError naming what is wrong.
        """
        checked = check_vocabulary(vocabulary, of_vocabulary, PAD, UNKNOWN)
        lines = [line.split() for line in merges.splitlines() if line.strip() and not line.startswith("#version")]
        pairs = check_merges(lines, checked, of_merges)
        made = CharBPETokenizer(checked, pairs, unk_token=UNKNOWN, lowercase=True)
        made.add_special_tokens([PAD])
        return cls.of(json.loads(made.to_str()), of_vocabulary, max_tokens)
