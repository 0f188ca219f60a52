"""Captions among words that say nothing of the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import TransformerConfig, from_preset
from model.drawings.concepts import evocations, kinds
from model.tokenizer import Tokenizer
from model.training.batches import Batch, ExampleDraws
from model.training.clutter import UNKNOWN, clutter, texts
from model.training.examples import Example
from model.training.options import LoopOptions, TransformerOptions
from model.training.train_transformer import losses
from model.transformer import Transformer


def test_captions_keep_what_they_say() -> None:
    random = np.random.default_rng(0)
    for caption in ("a cat", "an owl", "the flag of japan", "bread"):
        found = [clutter(caption, random) for _ in range(500)]
        noun = caption.partition(" ")[2] or caption
        assert all(noun in text for text in found)
        assert len(set(found)) > 200
        assert not any("  " in text or text != text.strip() for text in found)
        assert not any(text.startswith(("a a ", "an a ", "a an ")) for text in found)
    assert [clutter("a cat", np.random.default_rng(7)) for _ in range(2)] == [
        clutter("a cat", np.random.default_rng(7))
    ] * 2


def test_texts_without_a_thing_bring_one_to_mind() -> None:
    random = np.random.default_rng(0)
    found = [clutter("a red heart", random, "red-heart") for _ in range(500)]
    assert 0.5 < sum("heart" in text or "lover" in text for text in found) / len(found) < 0.75
    bare = {text for text in found if text in evocations()["red-heart"]}
    assert len(bare) > 0.9 * len(evocations()["red-heart"])
    assert "blue-square" not in evocations()  # which nothing brings to mind but itself
    assert all("blue square" in clutter("a blue square", random, "blue-square") for _ in range(100))


def test_a_kind_of_a_thing_may_stand_for_it() -> None:
    random = np.random.default_rng(0)
    found = [clutter("a dog", random, "dog-face") for _ in range(1000)]
    names = {kind.full for kind in kinds()["dog-face"]}
    assert 0.1 < sum(text in names for text in found) / len(found) < 0.3
    assert 0.2 < sum("dog" in text.split() for text in found) / len(found) < 0.5
    assert not names.intersection(clutter("two dogs", random) for _ in range(500))


def test_the_tokenizer_of_a_cluttered_run_reads_the_clutter() -> None:
    assert {"a labrador", "please", "love"} <= set(texts())


def test_a_thing_that_is_named_counts_for_more_than_an_idea_beside_it() -> None:
    random = np.random.default_rng(0)
    found = [clutter("a cat", random) for _ in range(500)]
    beside = [text for text in found if any(text.endswith(f" {idea}") for idea in evocations()["red-heart"])]
    assert beside
    assert all("cat" in text for text in beside)


def test_words_that_nobody_knows_have_one_drawing() -> None:
    random = np.random.default_rng(0)
    found = [clutter("a thinking face", random, UNKNOWN) for _ in range(1000)]
    names = ("thinking face", *(kind.text for kind in kinds()[UNKNOWN]))
    named = [text for text in found if any(name in text for name in names)]
    assert 0.2 < len(named) / len(found) < 0.3
    others = [text for text in found if not any(idea in text for idea in ("thinking", *evocations()[UNKNOWN]))]
    assert 0.5 < len(others) / len(found) < 0.7
    assert len(set(others)) > 0.8 * len(others)
    assert not [text for text in others if not text or "  " in text or text != text.strip()]


def test_the_unknown_is_always_drawn_for_the_unknown(tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer.load(tiny_checkpoint / "tokenizer.json")

    class Examples:
        """Of one concept."""

        def __init__(self, concept: str) -> None:
            self.concept = concept

        def draw(self, *_: object) -> Example:
            return Example([(1.0, "a red circle")], np.zeros(1024, np.int64), self.concept)

    def changed(concept: str, share: float) -> float:
        loop = LoopOptions(out=Path("nowhere"), steps=1, batch=200)
        options = TransformerOptions((), loop, null_captions=0.0, clutter=share)
        draws = ExampleDraws(Examples(concept), tokenizer, options)  # type: ignore[arg-type]
        plain = tokenizer.encode("a red circle")
        return sum(draws.item(0, place)[0][0] != plain for place in range(200)) / 200

    assert changed(UNKNOWN, 0.1) > 0.95
    assert 0.02 < changed("circle", 0.1) < 0.2
    assert changed(UNKNOWN, 0.0) == 0


def test_text_is_learnt_from_plain_captions_only() -> None:
    torch.manual_seed(0)
    model = Transformer(from_preset(TransformerConfig, "tiny", text_vocab=300))
    text = torch.tensor([[1, 5, 6, 2], [1, 7, 8, 2]])
    image = torch.randint(0, 8192, (2, 1024))
    ones = torch.ones(2, 1024)

    def text_loss(*plain: bool) -> float:
        batch = Batch(text, torch.tensor([4, 4]), image, ones, ones, torch.tensor(plain))
        return losses(model, batch)["text_loss"].item()

    first, second = text_loss(True, False), text_loss(False, True)
    assert text_loss(True, True) == pytest.approx((first + second) / 2)
    assert first != pytest.approx(second, abs=1e-6)
    assert text_loss(False, False) == 0


def test_the_tokenizer_takes_whatever_is_said() -> None:
    tokenizer = Tokenizer.train(["a red apple", "a blue circle"], vocab_size=300)
    random = np.random.default_rng(1)
    for _ in range(50):
        text = clutter("a red apple", random)
        assert tokenizer.decode(tokenizer.encode(text)) == text
