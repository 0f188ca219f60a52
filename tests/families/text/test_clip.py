"""OpenAI's CLIP BPE gives the ids that DALLE-pytorch's own tokenizer gives; those here were computed by it (1.6.6)."""

from __future__ import annotations

import json

import pytest

from model.errors import CheckpointError, InvalidRequest, PromptTooLong
from model.families.text.clip import VOCABULARY, ClipTokenizer
from model.tokenizers import KINDS

TOKENIZER = ClipTokenizer.built_in()
IDS: list[tuple[str, list[int]]] = [
    ("a red apple", [320, 736, 3055]),
    ("", []),
    (" ", []),
    ("A Photo of a CAT!", [320, 1125, 539, 320, 2368, 256]),
    ("two  dogs\nrunning", [1237, 3255, 2761]),
    ("!", [256]),
    ("don't &amp;amp; can't", [847, 713, 261, 753, 713]),
    ("naïve café, 東京 🍎", [1097, 35689, 563, 15304, 267, 48338, 21078, 361, 32069]),
    ("ёлка и снег", [141, 239, 47611, 27152, 27080, 140, 372, 23669, 22705, 22176, 140, 367]),
    (
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        [32035, 32035, 32035, 32035, 32035, 32035, 32035, 32035, 32035, 22819],
    ),
    ("</w> <|endoftext|>", [34308, 342, 285, 49407]),
    ("!<|endoftext|>a<|startoftext|><|endoftext|>b", [0, 27, 347, 40786, 4160, 91, 285, 320, 49406, 49407, 321]),
    ("it’s “quoted”", [585, 568, 257, 27706, 257]),
    ("schÃ¶n â€“ fine", [844, 7255, 333, 1224, 3797]),
    ("'ſo'LL", [6, 129, 379, 334, 1342]),
    ("½ Ⅷ ² 2022", [33613, 158, 227, 371, 41175, 273, 271, 273, 273]),
    ("ﬁne ｆｕｌｌ", [3797, 1476]),
    ("\x1b[31mred\x1b[0m", [736]),
]


@pytest.mark.parametrize(("text", "ids"), IDS)
def test_ids_are_those_of_the_package(text: str, ids: list[int]) -> None:
    assert TOKENIZER.encode(text) == ids


def test_a_text_comes_back_but_for_spaces_and_case() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("A red  Apple, 東京 🍎")) == "a red apple , 東京 🍎"
    assert TOKENIZER.decode([0, 320, 0, 49406, 736, 49407]) == "a red"
    with pytest.raises(InvalidRequest, match="ids: 49408 is no token id; they go from 0 to 49407"):
        TOKENIZER.decode([49408])


def test_a_long_text_is_cut_or_refused() -> None:
    short = ClipTokenizer.built_in(max_tokens=3)
    assert short.encode("one two three four", truncate=True) == TOKENIZER.encode("one two three")
    assert short.count("one two three four") == 4
    with pytest.raises(PromptTooLong, match="text must have at most 3 text tokens, got 4"):
        short.encode("one two three four")


def test_a_checkpoint_carries_it() -> None:
    data = TOKENIZER.to_bytes()
    again = KINDS["clip-bpe"].parse(data, "tokenizer.json", 8)
    assert (again.vocab_size, again.max_tokens, again.null, again.specials) == (VOCABULARY, 8, [0], 0)
    assert again.encode("an armchair") == TOKENIZER.encode("an armchair")
    values = json.loads(data)
    values["model"]["merges"][0] = ["t", "h"]
    with pytest.raises(CheckpointError, match="^x: model must have the vocabulary and the merges of OpenAI's CLIP"):
        ClipTokenizer.parse(json.dumps(values).encode(), "x")
    with pytest.raises(CheckpointError, match="^x: model must be an object, got null"):
        ClipTokenizer.parse(b"{}", "x")
