"""The tokenizer of min-dalle: a BPE over the ASCII characters of a text in lower case. Imports no torch.

Emoji become their names, everything else that is not ASCII vanishes, and only spaces cut words. Facts:
min_dalle/text_tokenizer.py of min-dalle 0.4.11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from model.families.text.bpe import CharacterBPE, Merges, check_vocabulary
from model.families.text.emoji_names import spell_out
from model.texts import check_length, check_merges, check_token_ids

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
SPACE = "\u0120"  # stands for the space before a word, as in GPT-2's vocabulary
MOST = 62  # tokens that the public models read, <s> and </s> not counted


class MinDalleTokenizer:
    """Text to ids: <s>, the tokens, </s>.

    max_tokens: tokens that a prompt may have, specials not counted.
    """

    kind: ClassVar[str] = "min-dalle"
    specials: ClassVar[int] = 2

    def __init__(self, vocabulary: Mapping[str, int], merges: Merges, max_tokens: int = MOST) -> None:
        """vocabulary: tokens with their ids, <s>, </s>, <unk> and what the merges make among them."""
        self._bpe = CharacterBPE(vocabulary, merges, UNKNOWN, fuse=False)
        self._begin, self._end = self._bpe.vocabulary[BEGIN], self._bpe.vocabulary[END]
        self.max_tokens = max_tokens

    @property
    def vocab_size(self) -> int:
        """Number of ids: one more than the highest."""
        return max(self._bpe.vocabulary.values()) + 1

    @property
    def null(self) -> list[int]:
        """Ids of the empty prompt, the unconditional half of classifier-free guidance: <s> </s>."""
        return [self._begin, self._end]

    def encode(self, text: str, truncate: bool = False) -> list[int]:
        """Ids of `text`: <s>, at most max_tokens tokens, </s>.

        truncate: cut after max_tokens + 2 ids instead of refusing, so </s> is missing, as in the original.
        Raises PromptTooLong with both numbers.
        """
        ids = self._tokens(text)
        check_length(len(ids), self.max_tokens, truncate)
        return [self._begin, *ids, self._end][: self.max_tokens + self.specials]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, specials dropped. It is in lower case, and what was unknown is missing.

        Raises InvalidRequest for an id outside the vocabulary.
        """
        check_token_ids(ids, self.vocab_size)
        tokens = [self._bpe.token(i) for i in ids]
        text = "".join(token for token in tokens if token not in (BEGIN, END, UNKNOWN, "<pad>"))
        return text.replace(SPACE, " ").removeprefix(" ")

    def count(self, text: str) -> int:
        """Number of tokens of `text`, specials not counted; compare with max_tokens."""
        return len(self._tokens(text))

    def _tokens(self, text: str) -> list[int]:
        plain = spell_out(text).lower().encode("ascii", errors="ignore").decode()
        return self._bpe.encode([SPACE + word for word in plain.split(" ") if word])

    def to_bytes(self) -> bytes:
        """The content of tokenizer.json: the format of the `tokenizers` library."""
        return self._bpe.to_bytes()

    @classmethod
    def parse(cls, data: bytes, where: str = "tokenizer.json", max_tokens: int = MOST) -> MinDalleTokenizer:
        """The tokenizer that `to_bytes` wrote. Raises CheckpointError naming the file and what is wrong with it."""
        bpe = CharacterBPE.parse(data, where, UNKNOWN, fuse=False)
        check_vocabulary(bpe.vocabulary, f"{where}: model.vocab", BEGIN, END)
        return cls(bpe.vocabulary, bpe.merges, max_tokens)

    @classmethod
    def read(
        cls, vocabulary: object, merges: str, of_vocabulary: str, of_merges: str, max_tokens: int = MOST
    ) -> MinDalleTokenizer:
        """The tokenizer of the values in vocab.json and the text of merges.txt. of_vocabulary, of_merges: their names.

        As in the original the first line of merges.txt and what follows its last line end are no pairs. Raises
        CheckpointError naming what is wrong.
        """
        checked = check_vocabulary(vocabulary, of_vocabulary, BEGIN, END, UNKNOWN)
        pairs = [line.split() for line in merges.split("\n")[1:-1]]
        return cls(checked, check_merges(pairs, checked, of_merges), max_tokens)
