"""Any tokenizer file of the `tokenizers` library (tokenizer.json), used as DALLE-pytorch's HugTokenizer does.

What the file adds to each text ([CLS], [SEP]) is left out, as there. Id 0 is padding for the model, whatever the file
has there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, ClassVar

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from model.errors import CheckpointError, InvalidRequest
from model.families.text.growth import check_growth
from model.families.text.port import TextTokenizer
from model.files import parse_json
from model.limits import one_line, shown
from model.texts import check_unicode


class HuggingFaceTokenizer(TextTokenizer):
    """The file's own normaliser, words and model."""

    kind: ClassVar[str] = "huggingface"

    def __init__(self, tokenizer: tokenizers.Tokenizer, max_tokens: int) -> None:
        super().__init__(max_tokens)
        self._tokenizer = tokenizer

    @classmethod
    def parse(cls, data: bytes, where: str = "tokenizer.json", max_tokens: int = 256) -> HuggingFaceTokenizer:
        """A tokenizer file. Raises CheckpointError naming the file, and what in it cannot be honoured."""
        return cls.of(parse_json(data, where), where, max_tokens)

    @classmethod
    def of(cls, values: Any, where: str, max_tokens: int) -> HuggingFaceTokenizer:
        """The same from the file's JSON values."""
        if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
            raise CheckpointError(f"{where}: a tokenizer file must be an object whose model is an object")
        _check_padding(values.get("padding"), where)
        check_growth(values, where)
        if dropout := values["model"].get("dropout"):
            told = f"must be null, as any other would split a text by chance, got {shown(dropout)}"
            raise CheckpointError(f"{where}: model.dropout {told}")
        try:
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps({**values, "padding": None}))
        except Exception as error:  # the library raises this class itself
            raise CheckpointError(f"{where}: the tokenizers library refuses it: {one_line(error)}") from None
        except BaseException as error:
            _check_panic(error)
            raise CheckpointError(f"{where}: the tokenizers library refuses it: {one_line(error)}") from None
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        return cls(tokenizer, max_tokens)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, max_tokens: int) -> HuggingFaceTokenizer:
        """A byte-level BPE learnt from `texts`, whose id 0 is [PAD]. vocab_size: ids at most, 257 or more."""
        bpe = tokenizers.Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # a word is the same wherever it stands
        bpe.decoder = decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=["[PAD]"], min_frequency=2, initial_alphabet=letters,
            show_progress=False,
        )  # fmt: skip
        bpe.train_from_iterator(texts, trainer=trainer)
        return cls.parse(bpe.to_str().encode(), max_tokens=max_tokens)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def largest(self) -> int:
        """The largest id; it is vocab_size - 1 where no id is left out."""
        return max(self._tokenizer.get_vocab().values(), default=-1)

    def to_bytes(self) -> bytes:
        """The content of tokenizer.json."""
        return (str(self._tokenizer.to_str(pretty=True)) + "\n").encode()

    def _ids(self, text: str) -> list[int]:
        check_unicode(text)
        try:
            ids: list[int] = self._tokenizer.encode_batch_fast([text])[0].ids
        except BaseException as error:  # an unknown word without an id for it, a pattern that gives up
            _check_panic(error)
            told = f"text: the model's tokenizer cannot split it: {one_line(error)}"
            raise InvalidRequest("text", told) from None
        return ids

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def _check_panic(error: BaseException) -> None:
    """Raises `error` again where it is none of the library's: its Rust code's derives from BaseException."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _check_padding(found: Any, where: str) -> None:
    """Padding with 0 at the end changes nothing, because the model's texts are padded so. Any other would."""
    if found is None:
        return
    if not isinstance(found, dict) or found.get("pad_id") != 0 or found.get("direction") != "Right":
        raise CheckpointError(f"{where}: padding must be null, or with pad_id 0 at the right, got another")
