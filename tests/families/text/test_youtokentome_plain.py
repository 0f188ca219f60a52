"""A bpe.model of youtokentome gives the ids that DALLE-pytorch's YttmTokenizer gives; those here were computed by it.

tests/data/families/text/bpe.model was made by youtokentome 1.0.6 of ten captions, with 150 ids.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from model.errors import CheckpointError, InvalidRequest, PromptTooLong
from model.families.text.youtokentome_plain import PlainYouTokenToMe
from model.tokenizers import KINDS

FILE = Path(__file__).parents[2] / "data" / "families" / "text" / "bpe.model"
LENGTH = 20  # of the padded rows that the package gave
IDS: list[tuple[str, list[int]]] = [
    ("a red apple", [33, 4, 56, 16, 33, 21, 21, 43]),
    ("", []),
    (" ", []),
    ("A Photo of a CAT!", [4, 1, 4, 1, 130, 40, 33, 4, 1]),
    ("naïve café, 東京 🍎", [4, 8, 5, 1, 22, 6, 45, 5, 20, 1, 31, 4, 1, 4, 1]),
    ("two  dogs\nrunning", [35, 14, 7, 143, 107]),
    ("!", [4, 1]),
    ("!!!", [4, 1]),
    ("don't &amp; can't", [4, 46, 8, 32, 10, 4, 1, 5, 23, 21, 1, 45, 39, 32, 10]),
    ("ёлка и снег", [4, 1, 4, 1, 4, 1]),
    (
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        [4, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27],
    ),
    ("</w> <|endoftext|>", [4, 1, 14, 1, 4, 1, 6, 8, 46, 20, 10, 6, 27, 10, 1]),
]


def tokenizer(max_tokens: int = LENGTH) -> PlainYouTokenToMe:
    read = PlainYouTokenToMe.read(FILE.read_text(encoding="utf-8"), "bpe.model", max_tokens)
    assert isinstance(read, PlainYouTokenToMe)
    return read


@pytest.mark.parametrize(("text", "ids"), IDS)
def test_ids_are_those_of_the_package(text: str, ids: list[int]) -> None:
    assert tokenizer().encode(text, truncate=True) == ids
    again = KINDS["youtokentome-plain"].parse(tokenizer().to_bytes(), "tokenizer.json", LENGTH)
    assert again.encode(text, truncate=True) == ids


def test_texts_are_refused_or_cut() -> None:
    short = tokenizer(2)
    assert short.count("a red apple") > 2
    assert short.encode("a red apple", truncate=True) == tokenizer().encode("a red apple")[:2]
    with pytest.raises(PromptTooLong, match="text must have at most 2 text tokens, got "):
        short.encode("a red apple")
    with pytest.raises(InvalidRequest, match="character 0 is a lone surrogate"):
        short.encode("\ud800")
    with pytest.raises(CheckpointError, match="^bpe.model: "):
        PlainYouTokenToMe.read("3 1\n5", "bpe.model", 2)


def test_it_adds_nothing() -> None:
    made = tokenizer()
    assert (made.null, made.specials, made.vocab_size) == ([0], 0, 150)
    assert made.decode([*made.encode("a red apple"), 0, 0]) == "a red apple"
