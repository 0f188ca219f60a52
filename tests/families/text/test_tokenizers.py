"""The tokenizers of min-dalle and ruDALL-E give the ids that the originals gave, and their files are read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model.errors import CheckpointError, InvalidRequest, PromptTooLong
from model.families.text.emoji_names import spell_out
from model.families.text.min_dalle import MinDalleTokenizer
from model.families.text.youtokentome import YouTokenToMe

DATA = Path(__file__).parents[2] / "data" / "families" / "text"
LONG = 10_000  # tokens: nothing is cut


def data(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return values


def bart(max_tokens: int = LONG) -> MinDalleTokenizer:
    found = data("min_dalle")
    return MinDalleTokenizer.read(found["vocab"], found["merges"], "vocab.json", "merges.txt", max_tokens)


def yttm(max_tokens: int = LONG) -> YouTokenToMe:
    return YouTokenToMe.read(data("youtokentome")["model"], "bpe.model", max_tokens)


def test_ids_are_those_of_the_originals() -> None:
    for tokenizer, name in ((bart(), "min_dalle"), (yttm(), "youtokentome")):
        prompts = data(name)["prompts"]
        assert len(prompts) > 100
        again = type(tokenizer).parse(tokenizer.to_bytes(), "tokenizer.json", LONG)
        for text, ids in prompts:
            assert tokenizer.encode(text) == again.encode(text) == ids, ascii(text)
            assert tokenizer.count(text) == len(ids) - 2


def test_emoji_become_names() -> None:
    assert spell_out("two 🍎!") == "two red_apple!"
    assert spell_out("👩🏽‍🚀") == "woman_astronaut_medium_skin_tone"
    assert spell_out("👩‍🍎") == "woman\u200dred_apple"  # no such emoji: each for itself
    assert spell_out("1️⃣ 1️ 1") == "keycap_1 1 1"
    assert spell_out("🇫🇷🇫") == "france\U0001f1eb"
    assert spell_out("") == ""


def test_a_long_text_is_cut_or_refused() -> None:
    text = "a " * 70
    for tokenizer, end in ((bart(62), 2), (yttm(62), 3)):
        with pytest.raises(PromptTooLong):
            tokenizer.encode(text)
        cut = tokenizer.encode(text, truncate=True)
        assert len(cut) == 64
        assert cut[-1] != end
        assert tokenizer.encode("a")[-1] == end


def test_ids_become_text() -> None:
    assert bart().decode(bart().encode("A red APPLE, 🍎")) == "a red apple, red_apple"
    assert yttm().decode(yttm().encode("красное яблоко")) == "красное яблоко"
    assert bart().null == [0, 2]
    assert yttm().null == []
    for tokenizer in (bart(), yttm()):
        with pytest.raises(InvalidRequest, match=f"{tokenizer.vocab_size} is no token id"):
            tokenizer.decode([tokenizer.vocab_size])


def test_a_lone_surrogate_is_refused_or_vanishes_as_in_the_originals() -> None:
    with pytest.raises(InvalidRequest, match="character 1 is a lone surrogate"):
        yttm().encode("a\ud800")
    assert bart().encode("a\ud800") == bart().encode("a")


@pytest.mark.parametrize(
    ("vocabulary", "merges", "said"),
    [
        ({"<s>": 0, "</s>": 2}, "#version\n", "vocab.json: the token <unk> is missing"),
        ({"<s>": 0, "</s>": 2, "<unk>": 2}, "", "each token must have an id of its own"),
        ({"<s>": 0, "</s>": 2, "<unk>": -1}, "", "the id of '<unk>' must be an integer from 0 to"),
        ({"<s>": 0, "</s>": 2, "<unk>": 3, "a": 4}, "#\na b\n", "merges.txt: pair 0 must be two tokens that make"),
        ({"<s>": 0, "</s>": 2, "<unk>": 3, "a": 4}, "#\na\n", "merges.txt: pair 0 must be two tokens"),
        ([], "", "vocab.json must be an object, got"),
    ],
)
def test_what_a_vocabulary_has_wrong(vocabulary: object, merges: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        MinDalleTokenizer.read(vocabulary, merges, "vocab.json", "merges.txt")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("1 0\n9601 4\n1 0 2\n", "1 characters and 0 rules take 8 numbers, got 7"),
        ("1 0\n9601 4\n1 0 3 2\n", "must be 1, 0, 2, 3, got"),
        ("1 0\n97 4\n1 0 2 3\n", "the token \u2581 is missing"),
        ("2 0\n97 4\n9601 4\n1 0 2 3\n", "two tokens have the id 4"),
        ("1 1\n9601 4\n4 9 5\n1 0 2 3\n", "rule 0 joins 9, which is no token before it"),
        ("1 0\n55296 4\n1 0 2 3\n", "must be a code point of Unicode, got 55296"),
        ("1 0\n9601 x\n1 0 2 3\n", "must be numbers from 0 up, got 'x'"),
        ("2 2\n9601 4\n97 5\n4 5 6\n4 5 7\n1 0 2 3\n", "the ids 6 and 7 are both"),
        ("999999999 999999999\n1 1\n1 0 2 3\n", "numbers, got 8"),
    ],
)
def test_what_a_bpe_model_has_wrong(model: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        YouTokenToMe.read(model, "bpe.model")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_json_that_does_more_is_refused() -> None:
    for tokenizer in (bart(), yttm()):
        values = json.loads(tokenizer.to_bytes())
        for change in ({"normalizer": {"type": "Lowercase"}}, {"model": {**values["model"], "dropout": 0.5}}):
            with pytest.raises(CheckpointError, match=f"'{next(iter(change))}' is not what it is"):
                type(tokenizer).parse(json.dumps({**values, **change}).encode(), "tokenizer.json")
        with pytest.raises(CheckpointError, match="model.vocab and model.merges must be there"):
            type(tokenizer).parse(b"{}", "tokenizer.json")
