"""A tokenizer file of the `tokenizers` library is used as DALLE-pytorch uses it, and refused in one line."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from model.errors import CheckpointError, InvalidRequest, PromptTooLong
from model.families.text.huggingface import HuggingFaceTokenizer
from model.tokenizers import KINDS

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def trained() -> Tokenizer:
    """A byte-level BPE that puts [CLS] and [SEP] around a text."""
    bpe = Tokenizer(models.BPE(unk_token="[UNK]"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=SPECIALS, initial_alphabet=letters, show_progress=False
    )
    bpe.train_from_iterator(["a red apple on a table", "two dogs in the snow"] * 3, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return bpe


def parse(values: Any, max_tokens: int = 64) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer.parse(json.dumps(values).encode(), "bpe.json", max_tokens)


def values(**changes: Any) -> dict[str, Any]:
    return {**json.loads(trained().to_str()), **changes}


@pytest.mark.parametrize("text", ["a red apple", "", " ", "two  dogs\nrunning", "東京 🍎 naïve", "[SEP] is spelt"])
def test_ids_are_the_file_s_own_without_what_it_adds(text: str) -> None:
    expected = trained().encode(text).ids[1:-1]
    tokenizer = parse(values())
    assert tokenizer.encode(text) == expected
    again = KINDS["huggingface"].parse(tokenizer.to_bytes(), "tokenizer.json", 64)
    assert again.encode(text) == expected
    assert again.count(text) == len(expected)
    assert again.decode([*expected, 0, 0]) == text.replace("[SEP]", "")


def test_padding_at_the_end_with_0_is_what_the_model_does_anyway() -> None:
    padding = {"strategy": {"Fixed": 40}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    padding["pad_to_multiple_of"] = None
    assert parse(values(padding=padding)).encode("a red apple") == parse(values()).encode("a red apple")
    for change in ({"pad_id": 1}, {"direction": "Left"}):
        with pytest.raises(CheckpointError, match="^bpe.json: padding must be null, or with pad_id 0 at the right"):
            parse(values(padding={**padding, **change}))


def test_a_text_that_the_library_gives_up_is_refused() -> None:
    """Its Rust code panics, by an error that is no Exception: a pattern that takes too long."""
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    with pytest.raises(InvalidRequest, match="^text: the model's tokenizer cannot split it: "):
        parse(values(pre_tokenizer=pattern)).encode("a" * 30 + "!")


def test_chance_in_the_splitting_is_refused() -> None:
    model = values()["model"]
    with pytest.raises(CheckpointError, match="^bpe.json: model.dropout must be null, .* got 0.5$"):
        parse(values(model={**model, "dropout": 0.5}))
    assert parse(values(model={**model, "dropout": 0.0})).vocab_size == 288


def test_texts_are_refused_or_cut() -> None:
    tokenizer = parse(values(), max_tokens=3)
    assert len(tokenizer.encode("a red apple on a table", truncate=True)) == 3
    with pytest.raises(PromptTooLong, match="text must have at most 3 text tokens, got "):
        tokenizer.encode("a red apple on a table")
    with pytest.raises(InvalidRequest, match="character 1 is a lone surrogate"):
        tokenizer.encode("a\ud800")
    with pytest.raises(InvalidRequest, match="ids: 288 is no token id; they go from 0 to 287"):
        tokenizer.decode([288])


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "a tokenizer file must be an object whose model is an object"),
        ({"model": 3}, "a tokenizer file must be an object whose model is an object"),
        ({"model": {"type": "Magic"}}, "the tokenizers library refuses it: "),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, "the tokenizers library refuses it: "),
    ],
)
def test_what_is_no_tokenizer_is_refused(found: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"^bpe.json: {message}"):
        parse(found)


def replaces(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def table(longest: int) -> str:
    """sentencepiece's table of letters, whose longest text has so many bytes."""
    return base64.b64encode((4).to_bytes(4, "little") + b"\0" * 4 + b"a\0" + b"b" * longest + b"\0").decode()


@pytest.mark.parametrize(
    ("part", "rules", "message"),
    [
        ("normalizer", [replaces("a" * 10_001, String="a")], "at most 10,000 times as long, got 10,001 times"),
        ("normalizer", [replaces("aa", String="a")] * 14, "at most 10,000 times as long, got 16,384 times"),
        ("normalizer", [replaces("-", Regex="x*")] * 14, "at most 10,000 times as long, got 16,384 times"),
        ("normalizer", [{"type": "NFKC"}] * 100, "at most 100 rules, got more"),
        (
            "normalizer",
            [{"type": "Prepend", "prepend": "a" * 101}],
            "prepend must have at most 100 characters, got 101",
        ),
        (
            "normalizer",
            [{"type": "Precompiled", "precompiled_charsmap": table(10_001)}],
            "at most 10,000 times as long, got 10,001 times",
        ),
        ("normalizer", [{"type": "Precompiled", "precompiled_charsmap": "AAAA"}], "a trie of 1 to -1 bytes, got 0"),
        ("normalizer", [{"type": "Precompiled", "precompiled_charsmap": "é"}], "must be base64, got "),
        ("pre_tokenizer", [{"type": "ByteLevel"}] * 14, "at most 10,000 times as long, got 16,384 times"),
        ("decoder", [replaces("aa", String="a")] * 14, "at most 10,000 times as long, got 16,384 times"),
        ("decoder", [{"type": "WordPiece", "prefix": "#" * 101}], "prefix must have at most 100 characters, got 101"),
    ],
)
def test_rules_that_make_a_text_too_long_are_refused(part: str, rules: list[Any], message: str) -> None:
    inside = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}[part]
    with pytest.raises(CheckpointError, match=f"^bpe.json: {part}.*{message}"):
        parse(values(**{part: {"type": "Sequence", inside: rules}}))


def test_rules_that_people_use_are_read() -> None:
    rules = [replaces('"', String="``"), replaces(" ", Regex=" {2,}"), {"type": "NFKD"}, {"type": "Lowercase"}]
    tokenizer = parse(values(normalizer={"type": "Sequence", "normalizers": rules}))
    assert tokenizer.encode("A  RED apple") == parse(values()).encode("a red apple")
