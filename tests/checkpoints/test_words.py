"""tokenizer.json: a file that our tokenizer could not have written is refused, and the library never reads the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.checkpoint import ServedCheckpoint
from model.checkpoints import load, sums
from model.errors import CheckpointError
from model.tokenizer import TOKEN_BYTES, Tokenizer
from tests.checkpoints.refused import refusal


def added(content: str) -> dict[str, Any]:
    return {
        "id": 0, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
        "special": True,
    }  # fmt: skip


def set_key(*keys: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(values: dict[str, Any]) -> None:
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return change


REGEX = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
TRUNCATION = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
    "pad_token": "!",
}  # fmt: skip
TOKENIZERS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "truncation": (set_key("truncation", value=TRUNCATION), "truncation must be null, got an object"),
    "padding": (set_key("padding", value=PADDING), "padding must be null, got an object"),
    "dropout": (set_key("model", "dropout", value=0.5), "model.dropout must be null, got 0.5"),
    "an added token": (set_key("added_tokens", value=[added("a red")]), "added_tokens must be [], got a list of 1"),
    "a normalizer": (set_key("normalizer", value={"type": "Lowercase"}), "normalizer must be null"),
    "a post-processor": (set_key("post_processor", value=REGEX), "post_processor must be null, got an object"),
    "a slow pattern": (set_key("pre_tokenizer", value=REGEX), "pre_tokenizer.type must be \"ByteLevel\", got 'Split'"),
    "a sequence": (
        set_key("pre_tokenizer", value={"type": "Sequence", "pretokenizers": [REGEX]}),
        "pre_tokenizer.type must be \"ByteLevel\", got 'Sequence'",
    ),
    "no pattern": (set_key("pre_tokenizer", "use_regex", value=False), "use_regex must be true, got false"),
    "a space in front": (set_key("pre_tokenizer", "add_prefix_space", value=True), "add_prefix_space must be false"),
    "no decoder": (set_key("decoder", value=None), "decoder must be an object, got null"),
    "another model": (set_key("model", "type", value="Unigram"), "model.type must be \"BPE\", got 'Unigram'"),
    "an unknown token": (set_key("model", "unk_token", value="!"), "model.unk_token must be null, got '!'"),
    "ignored merges": (set_key("model", "ignore_merges", value=True), "model.ignore_merges must be false, got true"),
    "a number for false": (set_key("model", "fuse_unk", value=0), "model.fuse_unk must be false, got 0"),
    "an unknown key": (set_key("post", value=1), "unknown key 'post'"),
    "no model": (lambda t: t.pop("model"), "the keys model, pre_tokenizer and decoder must be there"),
    "no merges": (lambda t: t["model"].pop("merges"), "the keys model.vocab and model.merges must be there"),
    "a vocabulary of text": (set_key("model", "vocab", value="x"), "model.vocab must be an object, got 'x'"),
    "a byte missing": (lambda t: t["model"]["vocab"].pop("!"), "must have a token for each of the 256 bytes"),
    "an id twice": (set_key("model", "vocab", "!", value=1), "model.vocab must have the ids 0 to"),
    "a negative id": (set_key("model", "vocab", "!", value=-1), "model.vocab must have the ids 0 to"),
    "an id of 2**40": (set_key("model", "vocab", "!", value=2**40), "model.vocab must have the ids 0 to"),
    "an id of text": (set_key("model", "vocab", "!", value="0"), "model.vocab must have the ids 0 to"),
    "true for an id": (set_key("model", "vocab", "!", value=True), "model.vocab must have the ids 0 to"),
    "a token of another alphabet": (set_key("model", "vocab", "a b", value=9), "alphabet, got 'a b'"),
    "a token that is empty": (set_key("model", "vocab", "", value=9), "must be 1 to 1024 letters"),
    "a token without end": (set_key("model", "vocab", "a" * 5000, value=9), "got 'aaaa"),
    "merges of text": (set_key("model", "merges", value="a b"), "model.merges must be a list, got 'a b'"),
    "a merge of nothing known": (
        lambda t: t["model"]["merges"].append(["zz", "yy"]), "must be two tokens that make a third one, got 'zz'",
    ),
    "a merge that makes nothing": (lambda t: t["model"]["merges"].append(["!", "!"]), "got '!' and '!'"),
    "a merge of three": (lambda t: t["model"]["merges"].append(["a", "b", "c"]), "got a list of 3"),
    "a merge of numbers": (lambda t: t["model"]["merges"].append([1, 2]), "got 1 and 2"),
    "a merge in one text": (lambda t: t["model"]["merges"].append("a b"), "got 'a b'"),
}  # fmt: skip


@pytest.mark.parametrize("damage", TOKENIZERS)
def test_a_tokenizer_that_we_did_not_write_is_refused(copy: Path, damage: str) -> None:
    change, line = TOKENIZERS[damage]
    path = copy / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    sums.write(copy)
    for read in (load, ServedCheckpoint.read):
        refused = refusal(copy, read)
        assert refused.startswith(f"{path}: ")
        assert line in refused


@pytest.mark.parametrize("data", [b"", b"\xff", b"null", b"[]", b"7", b"[" * 10**6, b'{"model":' * 10**5, b"{}"])
def test_random_bytes_are_refused_as_a_tokenizer(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"^tokenizer\.json: "):
        Tokenizer.parse(data)


KEYS = st.sampled_from(["model", "type", "vocab", "merges", "pre_tokenizer", "decoder"]) | st.text()
SCALARS = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)))
def test_random_values_in_a_tokenizers_form_are_refused(values: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^tokenizer\.json"):
        Tokenizer.parse(json.dumps(values).encode())


def test_a_tokenizer_of_an_older_library_is_read_and_written_as_ours() -> None:
    ours = Tokenizer.train(["a red apple", "a blue circle"] * 2, vocab_size=300)
    older = json.loads(ours.to_bytes())
    for key in ("ignore_merges", "byte_fallback"):
        del older["model"][key]
    assert Tokenizer.parse(json.dumps(older).encode()).to_bytes() == ours.to_bytes()


def test_a_text_of_one_word_without_end_makes_no_token_that_is_refused() -> None:
    made = Tokenizer.train(["x" * 5000, "ab" * 5000] * 2, vocab_size=2000)
    again = Tokenizer.parse(made.to_bytes())
    assert again.to_bytes() == made.to_bytes()
    assert max(len(made.decode([i])) for i in range(made.vocab_size)) in range(256, TOKEN_BYTES + 1)
