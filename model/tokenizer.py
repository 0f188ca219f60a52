"""Text to token ids and back: byte-level BPE, lossless for any Unicode. Imports no torch; knows nothing of images.

    tokenizer = Tokenizer.train(captions, vocab_size=8192)
    tokenizer.encode("a red apple")  # [0, 259, 273, 278, 1]: <bos>, three words, <eot>

The three specials are ids of ours in front of the BPE's own vocabulary, which has no name for them. So no text can
spell one: somebody who types "<bos>" gets the tokens of those five characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from model.errors import CheckpointError, InvalidRequest, PromptTooLong

SPECIALS = 3  # <bos>, <eot>, <pad>; the BPE's id i is our id i + SPECIALS
BYTES = 256  # the BPE always knows every byte, so nothing is ever unknown


class Tokenizer:
    """Byte-level BPE in the manner of GPT-2 (Radford et al. 2019, section 2.2), without any normalisation.

    A word is written with the space before it, also the first of a text (one space is put in front, and taken away by
    `decode`): "apple" has the same tokens wherever it stands in a prompt.

    bos, eot, pad: ids of the specials. max_tokens: BPE tokens that a prompt may have, specials not counted.
    """

    bos = 0
    eot = 1
    pad = 2

    def __init__(self, bpe: tokenizers.Tokenizer, max_tokens: int = 256) -> None:
        self._bpe = bpe
        self.max_tokens = max_tokens

    @property
    def vocab_size(self) -> int:
        """Number of ids: the specials, the 256 bytes and the merges that the captions gave."""
        return int(self._bpe.get_vocab_size(with_added_tokens=False)) + SPECIALS

    @property
    def null(self) -> list[int]:
        """Ids of the empty prompt, the unconditional half of classifier-free guidance: [bos, eot]."""
        return [self.bos, self.eot]

    def encode(self, text: str, truncate: bool = False) -> list[int]:
        """Ids of `text`: [bos, t1 .. tn, eot] with n <= max_tokens.

        truncate: cut after max_tokens tokens instead of refusing (a cut may fall inside a character).
        Raises PromptTooLong with both numbers, and InvalidRequest for a lone surrogate, which is no Unicode text.
        """
        ids = self._tokens(text)
        if len(ids) > self.max_tokens and not truncate:
            raise PromptTooLong(len(ids), self.max_tokens)
        return [self.bos, *ids[: self.max_tokens], self.eot]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, specials dropped; decode(encode(text)) == text.

        Bytes that are no whole character (ids that no text gives, or a text cut by `truncate`) become U+FFFD.
        Raises InvalidRequest for an id outside the vocabulary.
        """
        size = self.vocab_size
        for i in ids:
            if not 0 <= i < size:
                raise InvalidRequest("ids", f"ids: {i} is no token id; they go from 0 to {size - 1}")
        text: str = self._bpe.decode([i - SPECIALS for i in ids if i >= SPECIALS], skip_special_tokens=False)
        return text.removeprefix(" ")

    def count(self, text: str) -> int:
        """Number of BPE tokens of `text`, specials not counted; compare with max_tokens. Raises InvalidRequest."""
        return len(self._tokens(text))

    def _tokens(self, text: str) -> list[int]:
        if not text:
            return []
        try:
            text.encode()
        except UnicodeEncodeError as error:
            found = f"U+{ord(text[error.start]):04X}"
            message = f"text: character {error.start} is a lone surrogate ({found}), which is no Unicode text"
            raise InvalidRequest("text", message) from None
        ids: list[int] = self._bpe.encode(" " + text, add_special_tokens=False).ids
        return [i + SPECIALS for i in ids]

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int = 8192, max_tokens: int = 256) -> Tokenizer:
        """Learn the merges from `captions`; the same captions in any order give the same tokenizer.

        vocab_size: ids at most, specials and bytes among them; fewer when no further pair occurs twice.
        Raises InvalidRequest if it leaves no room for the specials and the bytes.
        """
        if vocab_size < SPECIALS + BYTES:
            message = f"vocab_size: {vocab_size} is less than {SPECIALS} specials and {BYTES} bytes"
            raise InvalidRequest("vocab_size", message)
        bpe = tokenizers.Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - SPECIALS,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )

        def words() -> Iterator[str]:
            return (" " + caption for caption in captions if caption)

        bpe.train_from_iterator(words(), trainer=trainer)
        return cls(bpe, max_tokens)

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json: the format of the `tokenizers` library, without our specials."""
        Path(path).write_text(self._bpe.to_str(pretty=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, max_tokens: int = 256) -> Tokenizer:
        """Read what `save` wrote. Raises CheckpointError naming the file if it is missing, damaged or not lossless."""
        path = Path(path)
        try:
            bpe = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such file") from None
        except Exception as error:  # the library raises bare Exception for every fault of the file
            raise CheckpointError(f"{path}: no tokenizer can be read from it: {error}") from None
        vocab = bpe.get_vocab(with_added_tokens=False)
        kinds = isinstance(bpe.model, models.BPE) and isinstance(bpe.pre_tokenizer, pre_tokenizers.ByteLevel)
        plain = bpe.normalizer is None and not bpe.get_added_tokens_decoder()
        if not (kinds and plain and vocab.keys() >= set(pre_tokenizers.ByteLevel.alphabet())):
            raise CheckpointError(f"{path}: not a byte-level BPE without normaliser and added tokens")
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise CheckpointError(f"{path}: the ids of its vocabulary are not 0 to {len(vocab) - 1}")
        return cls(bpe, max_tokens)
