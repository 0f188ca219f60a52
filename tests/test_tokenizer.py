"""The tokenizer: nothing is lost, nothing is unknown, and no text can spell a special."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import CheckpointError, InvalidRequest, PromptTooLong
from model.tokenizer import BYTES, SPECIALS, Tokenizer

CAPTIONS = [
    f"a {size} {colour} {thing} on a {background} background"
    for size in ("small", "large")
    for colour in ("red", "blue", "green")
    for thing in ("apple", "circle", "rocket")
    for background in ("white", "black")
]
TOKENIZER = Tokenizer.train(CAPTIONS, vocab_size=8192)
ANY_TEXT = st.text(st.characters(codec="utf-8"))  # every code point but the surrogates


@given(ANY_TEXT)
def test_decode_gives_back_what_was_encoded(text: str) -> None:
    ids = TOKENIZER.encode(text, truncate=True)
    assert ids[0] == TOKENIZER.bos
    assert ids[-1] == TOKENIZER.eot
    assert all(SPECIALS <= i < TOKENIZER.vocab_size for i in ids[1:-1])
    if TOKENIZER.count(text) <= TOKENIZER.max_tokens:
        assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "   two  spaces   ",
        "\u0301",  # a combining mark with nothing to combine with
        "cafe\u0301 and café",  # no normalisation: the two spellings stay two
        "👩‍👩‍👧 🍎 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "\x00\x01\x1b\r\n\t\x7f\ufeff\u2028",
        "ﬁ ½ Ａ ⁵",
        "红苹果 תפוח אדום",
        "\U0010ffff",
    ],
)
def test_nothing_is_lost(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize("text", ["<bos>", "<eot>", "<pad>", "a <bos><eot> b", "[PAD]<|endoftext|>"])
def test_a_special_typed_in_a_prompt_is_plain_text(text: str) -> None:
    trained_on_it = Tokenizer.train([*CAPTIONS, *([text] * 50)], vocab_size=400)
    for tokenizer in (TOKENIZER, trained_on_it):
        ids = tokenizer.encode(text)
        assert min(ids[1:-1]) >= SPECIALS
        assert tokenizer.decode(ids) == text


def test_the_null_prompt_is_the_empty_text() -> None:
    assert TOKENIZER.null == TOKENIZER.encode("") == [TOKENIZER.bos, TOKENIZER.eot]
    assert TOKENIZER.count("") == 0
    assert TOKENIZER.decode(TOKENIZER.null) == ""


def test_a_word_is_the_same_token_wherever_it_stands() -> None:
    first, last = TOKENIZER.encode("apple red"), TOKENIZER.encode("red apple")
    assert first[1:-1] == last[-2:0:-1]


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers() -> None:
    assert TOKENIZER.count("apple" + " apple" * 255) == 256
    assert len(TOKENIZER.encode("apple" + " apple" * 255)) == 258
    with pytest.raises(PromptTooLong, match="text must have at most 256 text tokens, got 257") as caught:
        TOKENIZER.encode("apple" + " apple" * 256)
    assert (caught.value.tokens, caught.value.limit, caught.value.field) == (257, 256, "text")


def test_truncation_keeps_the_first_tokens() -> None:
    text = " ".join(CAPTIONS * 3)
    cut = TOKENIZER.encode(text, truncate=True)
    assert len(cut) == 258
    assert text.startswith(TOKENIZER.decode(cut))


@pytest.mark.parametrize("text", ["\ud800", "an apple \udfff", "\ud83c\udf4e"])
def test_a_lone_surrogate_is_refused(text: str) -> None:
    for refused in (TOKENIZER.encode, TOKENIZER.count):
        with pytest.raises(InvalidRequest, match="lone surrogate") as caught:
            refused(text)
        assert caught.value.field == "text"


def test_an_id_outside_the_vocabulary_is_refused() -> None:
    for wrong in (-1, TOKENIZER.vocab_size):
        with pytest.raises(InvalidRequest, match=f"{wrong} is no token id"):
            TOKENIZER.decode([wrong])


def test_training_does_not_depend_on_the_order(tmp_path: Path) -> None:
    shuffled = random.Random(1).sample(CAPTIONS, len(CAPTIONS))
    TOKENIZER.save(tmp_path / "a.json")
    Tokenizer.train(iter(shuffled), vocab_size=8192).save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_the_vocabulary_is_as_large_as_asked_or_as_the_captions_give() -> None:
    assert Tokenizer.train(CAPTIONS, vocab_size=300).vocab_size == 300
    assert 300 < TOKENIZER.vocab_size < 8192
    assert Tokenizer.train(["ab ab"], vocab_size=8192).vocab_size == SPECIALS + BYTES + 2  # " a", " ab"
    assert Tokenizer.train([], vocab_size=SPECIALS + BYTES).vocab_size == SPECIALS + BYTES
    with pytest.raises(InvalidRequest, match="258 is less than 3 specials and 256 bytes"):
        Tokenizer.train(CAPTIONS, vocab_size=258)


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    TOKENIZER.save(path)
    again = Tokenizer.load(path, max_tokens=4)
    assert again.vocab_size == TOKENIZER.vocab_size
    assert again.encode("a red apple") == TOKENIZER.encode("a red apple")
    with pytest.raises(PromptTooLong):
        again.encode("a red apple on white")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(CheckpointError, match="tokenizer.json: no such file"):
        Tokenizer.load(path)
    TOKENIZER.save(path)
    whole = path.read_text(encoding="utf-8")
    lossy = json.loads(whole)
    lossy["normalizer"] = {"type": "Lowercase"}
    gap = json.loads(whole)
    gap["model"]["vocab"]["!"] = 5000
    for damaged in (whole[:200], "", "{}", json.dumps(lossy), json.dumps(gap), whole.encode()[:1].decode() * 3):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(CheckpointError, match="tokenizer.json: "):
            Tokenizer.load(path)
