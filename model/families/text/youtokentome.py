"""The tokenizer of ruDALL-E: a BPE that youtokentome made, over a text in lower case. Imports no torch.

Characters that it does not know are one <UNK> where several of them follow each other. Facts:
rudalle/tokenizer.py and pipelines.py of rudalle 1.1.3, and youtokentome/cpp/bpe.cpp of youtokentome 1.0.6.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from model.errors import CheckpointError
from model.families.text.bpe import MAX_IDS, CharacterBPE, Merges, check_vocabulary
from model.limits import shown
from model.texts import check_length, check_token_ids, check_unicode

SPECIALS = ("<PAD>", "<UNK>", "<BOS>", "<EOS>")  # by their ids
PAD, UNKNOWN, BEGIN, END = SPECIALS
SPACE = "\u2581"  # stands in front of every word; in a text it is a space too
MOST = 126  # tokens that the public models read, <BOS> and <EOS> not counted
_SPACES = re.compile(f"[ \\t\\n\\v\\f\\r{SPACE}]+")


class YouTokenToMe:
    """Text to ids: <BOS>, the tokens, <EOS>.

    max_tokens: tokens that a prompt may have, specials not counted.
    """

    kind: ClassVar[str] = "youtokentome"
    specials: ClassVar[int] = 2

    def __init__(self, vocabulary: Mapping[str, int], merges: Merges, max_tokens: int = MOST) -> None:
        """vocabulary: tokens with their ids, the four specials and what the merges make among them."""
        self._bpe = CharacterBPE(vocabulary, merges, UNKNOWN, fuse=True)
        self.max_tokens = max_tokens

    @property
    def vocab_size(self) -> int:
        """Number of ids: one more than the highest."""
        return max(self._bpe.vocabulary.values()) + 1

    @property
    def null(self) -> list[int]:
        """Ids of the text that guidance goes away from: none, so all of it is padding."""
        return []

    def encode(self, text: str, truncate: bool = False) -> list[int]:
        """Ids of `text`: <BOS>, at most max_tokens tokens, <EOS>.

        truncate: cut after max_tokens + 2 ids instead of refusing, so <EOS> is missing, as in the original.
        Raises PromptTooLong with both numbers, and InvalidRequest for a lone surrogate, which is no Unicode text.
        """
        ids = self._tokens(text)
        check_length(len(ids), self.max_tokens, truncate)
        return [SPECIALS.index(BEGIN), *ids, SPECIALS.index(END)][: self.max_tokens + self.specials]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, specials dropped. It is in lower case, and what was unknown is missing.

        Raises InvalidRequest for an id outside the vocabulary.
        """
        check_token_ids(ids, self.vocab_size)
        text = "".join(self._bpe.token(i) for i in ids if i >= len(SPECIALS))
        return text.replace(SPACE, " ").removeprefix(" ")

    def count(self, text: str) -> int:
        """Number of tokens of `text`, specials not counted; compare with max_tokens. Raises InvalidRequest."""
        return len(self._tokens(text))

    def _tokens(self, text: str) -> list[int]:
        check_unicode(text)
        return self._bpe.encode([SPACE + word for word in _SPACES.split(text.lower().strip()) if word])

    def to_bytes(self) -> bytes:
        """The content of tokenizer.json: the format of the `tokenizers` library."""
        return self._bpe.to_bytes()

    @classmethod
    def parse(cls, data: bytes, where: str = "tokenizer.json", max_tokens: int = MOST) -> YouTokenToMe:
        """The tokenizer that `to_bytes` wrote. Raises CheckpointError naming the file and what is wrong with it."""
        bpe = CharacterBPE.parse(data, where, UNKNOWN, fuse=True)
        check_vocabulary(bpe.vocabulary, f"{where}: model.vocab", *SPECIALS, SPACE)
        for number, token in enumerate(SPECIALS):
            if bpe.vocabulary[token] != number:
                message = f"model.vocab: the id of {token} must be {number}, got {bpe.vocabulary[token]}"
                raise CheckpointError(f"{where}: {message}")
        return cls(bpe.vocabulary, bpe.merges, max_tokens)

    @classmethod
    def read(cls, text: str, where: str, max_tokens: int = MOST) -> YouTokenToMe:
        """The tokenizer of a bpe.model, the text of a file that youtokentome wrote. where: names it.

        It has two counts, so many characters with their ids, so many rules (two ids, and the id of what they make), and
        the ids of <UNK>, <PAD>, <BOS>, <EOS>. Raises CheckpointError naming what is wrong.
        """
        numbers = _numbers(text, where)
        characters, rules = numbers[:2]
        expected = 2 + 2 * characters + 3 * rules + len(SPECIALS)
        if len(numbers) != expected:
            told = f"{characters} characters and {rules} rules take {expected} numbers, got {len(numbers)}"
            raise CheckpointError(f"{where}: {told}; the file is cut short or longer than it says")
        tokens = dict(enumerate(SPECIALS))
        body, ends = numbers[2 : -len(SPECIALS)], numbers[-len(SPECIALS) :]
        if ends != [SPECIALS.index(token) for token in (UNKNOWN, PAD, BEGIN, END)]:
            raise CheckpointError(
                f"{where}: the ids of <UNK>, <PAD>, <BOS>, <EOS> must be 1, 0, 2, 3, got {shown(ends)}"
            )
        for at in range(0, 2 * characters, 2):
            point, number = body[at : at + 2]
            if point >= 0x110000 or 0xD800 <= point < 0xE000:
                raise CheckpointError(f"{where}: a character must be a code point of Unicode, got {point}")
            _add(tokens, number, chr(point), where)
        merges: list[tuple[str, str]] = []
        for at in range(2 * characters, len(body), 3):
            left, right, made = body[at : at + 3]
            for part in (left, right):
                if part not in tokens or part < len(SPECIALS):
                    raise CheckpointError(f"{where}: rule {len(merges)} joins {part}, which is no token before it")
            merges.append((tokens[left], tokens[right]))
            _add(tokens, made, tokens[left] + tokens[right], where)
        vocabulary = {token: number for number, token in tokens.items()}
        if len(vocabulary) < len(tokens):
            twice = next(number for number, token in tokens.items() if vocabulary[token] != number)
            told = f"the ids {twice} and {vocabulary[tokens[twice]]} are both {shown(tokens[twice])}"
            raise CheckpointError(f"{where}: {told}, which a tokenizer here cannot have")
        check_vocabulary(vocabulary, where, SPACE)
        return cls(vocabulary, merges, max_tokens)


def _numbers(text: str, where: str) -> list[int]:
    words = text.split()
    wrong = next((word for word in words if not (word.isascii() and word.isdigit() and len(word) <= 10)), None)
    if wrong is not None or len(words) < 2 + len(SPECIALS):
        told = f"got {shown(wrong)}" if wrong is not None else f"got {len(words)} of them"
        raise CheckpointError(f"{where}: a model of youtokentome must be numbers from 0 up, {told}")
    return [int(word) for word in words]


def _add(tokens: dict[int, str], number: int, token: str, where: str) -> None:
    if number in tokens:
        raise CheckpointError(f"{where}: two tokens have the id {number}: {shown(tokens[number])} and {shown(token)}")
    if number >= MAX_IDS or len(token) > 1024:
        raise CheckpointError(f"{where}: the token {number} is too long, or its id is above {MAX_IDS - 1}")
    tokens[number] = token
