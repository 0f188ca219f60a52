"""The tokenizer of T5 (1910.10683), of FLAN-T5 too, over texts that are cleaned as LlamaGen cleans them.

    tokenizer = T5Tokenizer.read(data, "spiece.model", 119)
    tokenizer.encode("a red apple")  # [3, 9, 1131, 8947, 1]: four pieces, </s>

It is sentencepiece's unigram model (1804.10959), carried out by the `tokenizers` library. No text can spell a special.
Imports no torch.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any, ClassVar

from model.errors import CheckpointError
from model.families.text.bpe import MAX_IDS, TOKEN_CHARACTERS
from model.families.text.captions import cleaned
from model.families.text.huggingface import HuggingFaceTokenizer
from model.families.text.sentencepiece import Pieces, check_charsmap, read_model
from model.files import parse_json
from model.limits import shown
from model.texts import check_unicode

SPECIALS = ("<pad>", "</s>", "<unk>")  # by their ids
_END, _UNKNOWN = SPECIALS.index("</s>"), SPECIALS.index("<unk>")
_SPACE = "\u2581"
_NO_TEXT = "\n"  # in front of pieces that no text has, as no cleaned text has a line's end
# What transformers makes of a spiece.model: convert_slow_tokenizer.py, T5Converter.
_STRIPS: list[dict[str, Any]] = [
    {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": _SPACE},
]
_WORDS = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "always", "split": True}


class T5Tokenizer(HuggingFaceTokenizer):
    """Text to ids: at most max_tokens pieces, then </s>. Id 0 is padding, and the null prompt is padding alone."""

    kind: ClassVar[str] = "t5"
    specials: ClassVar[int] = 1

    def __init__(self, pieces: Pieces, max_tokens: int, where: str = "tokenizer.json") -> None:
        """Raises CheckpointError naming the file `where`, and what in it is no tokenizer of T5."""
        _check(pieces, where)
        self.pieces = pieces
        scores = [(_NO_TEXT * (i in pieces.special) + piece, score) for i, (piece, score) in enumerate(pieces.scores)]
        built = HuggingFaceTokenizer.of(_values(scores, pieces.charsmap), where, max_tokens)
        super().__init__(built._tokenizer, max_tokens)

    @classmethod
    def read(cls, data: bytes, where: str, max_tokens: int) -> T5Tokenizer:
        """The tokenizer of a spiece.model. Raises CheckpointError naming the file and what is wrong with it."""
        return cls(read_model(data, where), max_tokens, where)

    @classmethod
    def of(cls, values: Any, where: str, max_tokens: int) -> T5Tokenizer:
        """The tokenizer of a tokenizer.json, from its JSON values: `to_bytes` or transformers wrote it.

        Its scores and its table of characters are taken. All else must be as in a tokenizer of T5. Raises
        CheckpointError naming the key that is not.
        """
        model = values.get("model") if isinstance(values, dict) else None
        if not isinstance(model, dict) or model.get("type") != "Unigram" or not isinstance(model.get("vocab"), list):
            raise CheckpointError(f"{where}: model must be a Unigram with a list of pieces, as T5's is")
        if model.get("unk_id") != _UNKNOWN or model.get("byte_fallback"):
            raise CheckpointError(f"{where}: model must have the unk_id {_UNKNOWN} and no byte_fallback, as T5's has")
        scores: list[tuple[str, float]] = []
        for entry in model["vocab"]:
            match entry:
                case [str(piece), int() | float() as score]:
                    scores.append((piece, float(score)))
                case _:
                    raise CheckpointError(f"{where}: an entry of model.vocab must be a piece and its score")
        special = {i for i, (piece, _) in enumerate(scores) if i < len(SPECIALS) or piece.startswith("<extra_id_")}
        return cls(Pieces(scores, _charsmap(values, where), frozenset(special)), max_tokens, where)

    @classmethod
    def parse(cls, data: bytes, where: str = "tokenizer.json", max_tokens: int = 119) -> T5Tokenizer:
        """The tokenizer that `to_bytes` wrote. Raises CheckpointError as `of` does."""
        return cls.of(parse_json(data, where), where, max_tokens)

    def encode(self, text: str, truncate: bool = False) -> list[int]:
        """Ids of `text`: at most max_tokens pieces, and </s>.

        truncate: leave out what follows instead of refusing.
        Raises PromptTooLong with both numbers, and InvalidRequest for a lone surrogate, which is no Unicode text.
        """
        return [*super().encode(text, truncate), _END]

    def to_bytes(self) -> bytes:
        """The content of tokenizer.json: the format of the `tokenizers` library. It does not clean texts."""
        return (json.dumps(_values(self.pieces.scores, self.pieces.charsmap), ensure_ascii=False) + "\n").encode()

    def _ids(self, text: str) -> list[int]:
        check_unicode(text)
        return super()._ids(cleaned(text))

    def _text(self, ids: list[int]) -> str:
        return super()._text([i for i in ids if i not in self.pieces.special])


def _values(scores: list[tuple[str, float]], charsmap: bytes) -> dict[str, Any]:
    """A tokenizer.json."""
    compiled = base64.b64encode(charsmap).decode()
    first = [{"type": "Precompiled", "precompiled_charsmap": compiled}] if charsmap else []
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [*first, *_STRIPS]},
        "pre_tokenizer": _WORDS,
        "post_processor": None,
        "decoder": _WORDS,
        "model": {"type": "Unigram", "unk_id": _UNKNOWN, "vocab": [list(s) for s in scores], "byte_fallback": False},
    }


def _check(pieces: Pieces, where: str) -> None:
    found = [piece for piece, _ in pieces.scores[: len(SPECIALS)]]
    if found != list(SPECIALS) or not pieces.special.issuperset(range(len(SPECIALS))):
        told = ", ".join(shown(piece) for piece in found)
        raise CheckpointError(f"{where}: its first pieces must be {', '.join(SPECIALS)}, as T5's are, got {told}")
    if len(pieces.scores) > MAX_IDS:
        raise CheckpointError(f"{where}: it must have at most {MAX_IDS:,} pieces, got {len(pieces.scores):,}")
    if len({piece for piece, _ in pieces.scores}) < len(pieces.scores):
        raise CheckpointError(f"{where}: each piece must be there once")
    for piece, score in pieces.scores:
        if not 1 <= len(piece) <= TOKEN_CHARACTERS or not math.isfinite(score):
            told = f"1 to {TOKEN_CHARACTERS} characters and a finite score, got {shown(piece)} and {score}"
            raise CheckpointError(f"{where}: a piece must have {told}")
    check_charsmap(pieces.charsmap, where)


def _charsmap(values: dict[str, Any], where: str) -> bytes:
    """The table of characters. What transformers puts around it differs by its version, and does nothing else to a
    cleaned text, which has single spaces."""
    normalizer = values.get("normalizer")
    steps = (
        normalizer.get("normalizers") if isinstance(normalizer, dict) and "normalizers" in normalizer else [normalizer]
    )
    known = {"Precompiled", *(step["type"] for step in _STRIPS)}
    if not isinstance(steps, list) or not all(isinstance(s, dict) and s.get("type") in known for s in steps if s):
        raise CheckpointError(f"{where}: normalizer must be of {', '.join(sorted(known))}, as T5's is")
    tables = [step.get("precompiled_charsmap") for step in steps if step and step["type"] == "Precompiled"]
    if not tables or tables == [None]:
        return b""
    try:
        (table,) = tables
        return base64.b64decode(table, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise CheckpointError(f"{where}: normalizer must have one precompiled_charsmap, in base64") from None
