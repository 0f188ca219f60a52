"""T5's tokenizer over LlamaGen's cleaning gives what LlamaGen's T5Embedder gives; see tests/data/families/text."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import CheckpointError, InvalidRequest, PromptTooLong
from model.families.text.captions import MOST, cleaned
from model.families.text.sentencepiece import begins_model, read_model
from model.families.text.t5 import T5Tokenizer
from model.tokenizers import KINDS
from tests.families.text.odd_texts import texts

DATA = Path(__file__).parents[2] / "data" / "families" / "text"
MODEL = (DATA / "spiece.model").read_bytes()
LENGTH = 119


def tokenizer(max_tokens: int = LENGTH) -> T5Tokenizer:
    return T5Tokenizer.read(MODEL, "spiece.model", max_tokens)


def values() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tokenizer().to_bytes())
    return found


def test_texts_are_cleaned_and_split_as_the_original_does() -> None:
    for case in json.loads((DATA / "t5.json").read_text(encoding="utf-8")):
        assert cleaned(case["text"]) == case["cleaned"]
        for read in (tokenizer(), KINDS["t5"].parse(tokenizer().to_bytes(), "tokenizer.json", LENGTH)):
            assert read.encode(case["text"], truncate=True) == case["ids"]


def test_ten_thousand_texts() -> None:
    """Of each the sum of its cleaned text and its ids was kept."""
    read, wrong = tokenizer(), []
    for text, want in zip(texts(10_000), np.load(DATA / "t5.npz")["sums"], strict=True):
        told = "\0".join((cleaned(text), " ".join(map(str, read.encode(text, truncate=True)))))
        if zlib.crc32(told.encode()) & 0xFFFF != want:
            wrong.append(text)
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("A <b>Red</b> Apple &amp; a pear by @somebody", "a red apple a pear by"),
        ("see https://example.com/a.png", "see ."),  # the link's end is left, as there
        ("", ""),
        ("<p>&lt;pad&gt; x</s>", "x"),
        ("this-is-my-cute-cat", "this is my cute cat"),
        ("<![cdata[a]]><template>b</template><img>c</img>&#146;&nosuch;", "ac' nosuch"),
        ("<![odd", "<! odd"),  # where the original raises
        ("a " * MOST, ("a " * (MOST // 2)).strip()),
    ],
)
def test_cleaning(text: str, plain: str) -> None:
    assert cleaned(text) == plain


def test_ends_and_limits() -> None:
    read = tokenizer(3)
    assert (read.null, read.specials, read.pad) == ([0], 1, 0)
    ids = tokenizer().encode("a red apple on the table")
    assert ids[-1] == 1
    assert read.encode("a red apple on the table", truncate=True) == [*ids[:3], 1]
    with pytest.raises(PromptTooLong, match="text must have at most 3 text tokens, got"):
        read.encode("a red apple on the table")
    assert read.encode("") == [1]
    assert tokenizer().decode([*ids, 0, 0]) == "a red apple on the table"
    with pytest.raises(InvalidRequest, match="character 0 is a lone surrogate"):
        read.encode("\ud800")


def test_a_file_of_transformers_is_read_whatever_its_version_put_around_the_table() -> None:
    plain = values()
    table = plain["normalizer"]["normalizers"][0]
    older = {**plain, "normalizer": table, "added_tokens": [{"id": 0, "content": "<pad>"}]}
    want = tokenizer().encode("Two  Naïve cats")
    for found in (plain, older):
        assert T5Tokenizer.of(found, "tokenizer.json", LENGTH).encode("Two  Naïve cats") == want
    bare = T5Tokenizer.of({**plain, "normalizer": None}, "tokenizer.json", LENGTH)
    assert bare.encode("①") != tokenizer().encode("①") == tokenizer().encode("1")


def test_what_a_tokenizer_json_has_wrong() -> None:
    def said(**changes: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            T5Tokenizer.of({**values(), **changes}, "tokenizer.json", LENGTH)
        assert str(caught.value).startswith("tokenizer.json: ")
        return str(caught.value)

    model = values()["model"]
    pieces = model["vocab"]
    assert "must be a Unigram" in said(model={**model, "type": "BPE"})
    assert "unk_id 2" in said(model={**model, "unk_id": 0})
    assert "a piece and its score" in said(model={**model, "vocab": [*pieces, ["x"]]})
    assert "each piece must be there once" in said(model={**model, "vocab": [*pieces, pieces[-1]]})
    assert "first pieces must be <pad>, </s>, <unk>" in said(model={**model, "vocab": pieces[1:]})
    assert "a finite score, got 'odd' and nan" in said(model={**model, "vocab": [*pieces, ["odd", float("nan")]]})
    assert "normalizer must be of" in said(normalizer={"type": "Lowercase"})
    assert "in base64" in said(normalizer={"type": "Precompiled", "precompiled_charsmap": "?"})
    whole = tokenizer().pieces.charsmap
    size = 4 + int.from_bytes(whole[:4], "little")
    far = bytes([*whole[:4], 0, 252, 255, 127, *whole[8:]])  # children beyond the end
    for table in (
        b"\x09\0\0\0abc",
        b"\0\0\0\0abc",
        whole[: size // 2],
        whole + b"a" * 257,
        whole[:size],
        far,
        whole + b"\xff",
    ):
        packed = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}
        assert "its table of characters is damaged, or makes more than 256 bytes of one" in said(normalizer=packed)


def test_a_model_is_told_by_how_it_begins() -> None:
    assert begins_model(MODEL[:8])
    for other in (b"", b"\n", b"\nmodel:\n  x: 1", b"{}", b"\n\n\n\n\n\n\n\n", b"a b\nc d\n"):
        assert not begins_model(other[:8])


def test_what_a_model_has_wrong() -> None:
    def said(data: bytes) -> str:
        with pytest.raises(CheckpointError) as caught:
            T5Tokenizer.read(data, "spiece.model", LENGTH)
        assert str(caught.value).startswith("spiece.model: ")
        return str(caught.value)

    for size in (3, len(MODEL) // 2, len(MODEL) - 1):
        assert "cut short or damaged" in said(MODEL[:size])
    assert "model_type must be 1, got 2" in said(MODEL + b"\x12\x02\x18\x02")
    assert "byte_fallback must be 0, got 1" in said(MODEL + b"\x12\x03\x98\x02\x01")
    assert "add_dummy_prefix must be 1, got 0" in said(MODEL + b"\x1a\x02\x18\x00")
    assert "'ab' must be normal, unknown or control, got kind 4" in said(MODEL + b"\x0a\x06\x0a\x02ab\x18\x04")
    assert "a text in UTF-8" in said(MODEL + b"\x0a\x03\x0a\x01\xff")
    assert "a field of wire type 3" in said(MODEL + b"\x0b")
    assert "an integer has no end" in said(MODEL + b"\xff" * 20)
    assert "a text, a score and a kind" in said(MODEL + b"\x0a\x02\x08\x01")
    assert "first pieces" in said(b"")
    assert len(read_model(MODEL, "m").scores) == 220
