"""Byte-pair encodings over characters, whose words somebody else has cut. Imports no torch.

They are kept as a file of the `tokenizers` library, of which only the vocabulary and the merges are read back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import models

from model.errors import CheckpointError
from model.files import parse_json
from model.limits import shown
from model.texts import check_merges

TOKEN_CHARACTERS = 1024  # of one token
MAX_IDS = 2**20
Merges = Sequence[tuple[str, str]]


class CharacterBPE:
    """Words to ids.

    In a word the pair of neighbours that stands first in the merges is joined, the leftmost of equal ones first, until
    no pair is among them. unknown: the token of a character that the vocabulary does not have; fuse: several such in a
    row are one token.
    """

    def __init__(self, vocabulary: Mapping[str, int], merges: Merges, unknown: str, fuse: bool) -> None:
        """Every token of a merge, and what it makes, must be in the vocabulary, and `unknown` too."""
        self.vocabulary = dict(vocabulary)
        self.merges = list(merges)
        self._unknown, self._fuse = unknown, fuse
        self._bpe = tokenizers.Tokenizer(models.BPE(self.vocabulary, self.merges, unk_token=unknown, fuse_unk=fuse))
        self._token_of = {number: token for token, number in self.vocabulary.items()}

    def encode(self, words: Sequence[str]) -> list[int]:
        """The ids of all words, one after another."""
        if not words:
            return []
        # As a batch of one, because only batches are encoded without the interpreter's lock: other threads go on.
        found = self._bpe.encode_batch_fast([list(words)], is_pretokenized=True, add_special_tokens=False)
        ids: list[int] = found[0].ids
        return ids

    def token(self, number: int) -> str:
        """The token of an id; "" for an id that has none."""
        return self._token_of.get(number, "")

    def to_bytes(self) -> bytes:
        """The content of a tokenizer.json."""
        values = _plain(self._unknown, self._fuse)
        order = sorted(self.vocabulary, key=self.vocabulary.__getitem__)
        values["model"]["vocab"] = {token: self.vocabulary[token] for token in order}
        values["model"]["merges"] = [list(pair) for pair in self.merges]
        return (json.dumps(values, ensure_ascii=False, indent=1) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, where: str, unknown: str, fuse: bool) -> CharacterBPE:
        """What `to_bytes` wrote. where: names the file in a CheckpointError, which says what is wrong with it.

        Only vocabulary and merges are taken from it. All else must be what it is in such a file, so the library does
        nothing to a text that is not known here.
        """
        values = parse_json(data, where)
        plain = _plain(unknown, fuse)
        model = values.get("model") if isinstance(values, dict) else None
        if not isinstance(model, dict) or not {"vocab", "merges"} <= model.keys():
            raise CheckpointError(f"{where}: the keys model.vocab and model.merges must be there")
        rest = {**values, "model": {**model, "vocab": {}, "merges": []}}
        if rest != plain:
            other = [key for key in sorted({*rest, *plain}) if rest.get(key) != plain.get(key)]
            raise CheckpointError(f"{where}: {shown(other[0])} is not what it is in a tokenizer of this kind")
        vocabulary = check_vocabulary(model["vocab"], f"{where}: model.vocab", unknown)
        return cls(vocabulary, check_merges(model["merges"], vocabulary, f"{where}: model.merges"), unknown, fuse)


def check_vocabulary(found: Any, where: str, *needed: str) -> dict[str, int]:
    """Tokens with their ids. needed: tokens that must be there. Raises CheckpointError for anything else."""
    if not isinstance(found, dict):
        raise CheckpointError(f"{where} must be an object, got {shown(found)}")
    for token, number in found.items():
        if not 1 <= len(token) <= TOKEN_CHARACTERS:
            raise CheckpointError(f"{where}: a token must have 1 to {TOKEN_CHARACTERS} characters, got {shown(token)}")
        if type(number) is not int or not 0 <= number < MAX_IDS:
            told = f"must be an integer from 0 to {MAX_IDS - 1}, got {shown(number)}"
            raise CheckpointError(f"{where}: the id of {shown(token)} {told}")
    if len(set(found.values())) < len(found):
        raise CheckpointError(f"{where}: each token must have an id of its own")
    for token in needed:
        if token not in found:
            raise CheckpointError(f"{where}: the token {token} is missing")
    return found


def _plain(unknown: str, fuse: bool) -> dict[str, Any]:
    """What the library here writes for such a tokenizer, without tokens and merges."""
    bpe = tokenizers.Tokenizer(models.BPE({unknown: 0}, [], unk_token=unknown, fuse_unk=fuse))
    values: dict[str, Any] = json.loads(bpe.to_str())
    values["model"]["vocab"] = {}
    return values
