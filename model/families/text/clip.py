"""The BPE of OpenAI's CLIP (github.com/openai/CLIP, clip/simple_tokenizer.py), of 49,408 ids, as DALLE-pytorch uses it.

    tokenizer = ClipTokenizer.built_in(max_tokens=256)
    tokenizer.encode("a red apple")  # [320, 736, 3055]

No <|startoftext|> and <|endoftext|> are added. A text that spells one in a place of its own gets its id, as there. Id 0
is "!" inside a word; DALLE-pytorch takes it for padding.
"""

from __future__ import annotations

import gzip
import html
import re
from functools import cache
from importlib import resources
from typing import ClassVar

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from model.errors import CheckpointError
from model.families.text.port import TextTokenizer
from model.files import parse_json
from model.limits import shown

MERGES = "clip_merges.txt.gz"
VOCABULARY = 49408
END = "</w>"  # at the end of a word's last token
SPECIALS = ("<|startoftext|>", "<|endoftext|>")  # the last two ids

# The words of a text: contractions, letters, single digits, anything else. Case does not matter for the first alone
# (the long s); the rest is in lower case.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# A special is one where a word may begin: not inside a run of signs.
_SPECIAL = re.compile(r"(?:(?<=[^\W_])|(?<=\s)|^)((?:<\|startoftext\|>|<\|endoftext\|>)+)")
_ONE_SPECIAL = re.compile(r"<\|startoftext\|>|<\|endoftext\|>")


class ClipTokenizer(TextTokenizer):
    """Lower-cased BPE over bytes, whose words end in a mark. Spaces, and what ftfy mends, are lost."""

    kind: ClassVar[str] = "clip-bpe"

    def __init__(self, bpe: tokenizers.Tokenizer, max_tokens: int) -> None:
        super().__init__(max_tokens)
        self._bpe = bpe

    @classmethod
    def built_in(cls, max_tokens: int = 256) -> ClipTokenizer:
        """OpenAI's vocabulary, which is in this package."""
        return cls(_byte_pairs(*_published()), max_tokens)

    @classmethod
    def parse(cls, data: bytes, where: str = "tokenizer.json", max_tokens: int = 256) -> ClipTokenizer:
        """What `to_bytes` wrote. Raises CheckpointError naming the file where it is not OpenAI's vocabulary.

        The vocabulary and the merges are compared, and nothing else is taken from the file.
        """
        values = parse_json(data, where)
        model = values.get("model") if isinstance(values, dict) else None
        if not isinstance(model, dict):
            raise CheckpointError(f"{where}: model must be an object, got {shown(model)}")
        vocabulary, merges = _published()
        if model.get("merges") != [list(pair) for pair in merges] or model.get("vocab") != vocabulary:
            raise CheckpointError(
                f"{where}: model must have the vocabulary and the merges of OpenAI's CLIP, got others"
            )
        return cls(_byte_pairs(vocabulary, merges), max_tokens)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return VOCABULARY

    def to_bytes(self) -> bytes:
        """The content of tokenizer.json: the format of the `tokenizers` library. It does not clean texts."""
        return (str(self._bpe.to_str()) + "\n").encode()

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(_SPECIAL.split(cleaned(text))):
            if number % 2:
                ids += [VOCABULARY - len(SPECIALS) + SPECIALS.index(one) for one in _ONE_SPECIAL.findall(part)]
            elif part:
                # As a batch of one, because only batches are encoded without the interpreter's lock.
                ids += self._bpe.encode_batch_fast([part], add_special_tokens=False)[0].ids
        return ids

    def _text(self, ids: list[int]) -> str:
        tokens = [str(self._bpe.id_to_token(i)) for i in ids if i < VOCABULARY - len(SPECIALS)]
        spelt = "".join(token.removesuffix(END) + "Ġ" * token.endswith(END) for token in tokens)  # a space's letter
        text: str = decoders.ByteLevel().decode([spelt])
        return text.strip()


def cleaned(text: str) -> str:
    """`text` as the BPE sees it: mended by ftfy, HTML's entities read twice, spaces made one, lower case.

    A lone surrogate becomes U+FFFD.
    """
    import ftfy  # only those who use this tokenizer wait for it

    mended = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", mended).strip().lower()


@cache
def _published() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """OpenAI's vocabulary and merges: 256 bytes, the same with the mark of a word's end, a token for each merge."""
    packed = resources.files("model.families.text").joinpath(MERGES).read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    merges = [(left, right) for left, right in (line.split(" ") for line in lines)]
    letters = _letters()
    tokens = [*letters, *(letter + END for letter in letters), *(left + right for left, right in merges), *SPECIALS]
    return {token: i for i, token in enumerate(tokens)}, merges


def _letters() -> list[str]:
    """The letters that stand for the 256 bytes, in the order of their ids: printable ones first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(others)]


def _byte_pairs(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    bpe = tokenizers.Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix=END))
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of])
    return bpe
