"""The reranker's training: what contrasts with what, and a toy set that it learns in seconds and takes up again."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.config import VAEConfig, from_preset
from model.tokenizer import Tokenizer
from model.training import train_clip
from model.training.examples import find_examples
from model.training.loop import find_place
from model.training.negatives import all_words, falsify, may_fit, tear, words
from model.training.options import ClipOptions, LoopOptions
from model.training.train_clip import Batches
from model.vae import VAE
from tests.conftest import randomise

COLOURS = {"red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 60, 200), "black": (0, 0, 0)}
SIDES = {"left": 30, "right": 140}


@pytest.fixture(scope="module")
def vae() -> VAE:
    model = VAE(from_preset(VAEConfig, "tiny"))
    randomise(model, seed=1)
    return model.eval()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares of four colours on two sides, four sizes of each, one of which is held out."""
    folder = tmp_path_factory.mktemp("corpus")
    for size in range(4):
        for name, colour in COLOURS.items():
            for side, x in SIDES.items():
                image = Image.new("RGB", (256, 256), "white")
                image.paste(colour, (x, 90, x + 70 + 8 * size, 170 + 8 * size))
                key = f"{name}-{side}-{size}"
                image.save(folder / f"{key}.png")
                split = "val" if size == 1 else "train"
                caption = f"a {name} square on the {side}"
                line = {"captions": [caption], "concept": f"{name} {side}", "split": split, "mirror": False}
                (folder / f"{key}.json").write_text(json.dumps(line))
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a red green blue black square on the left right"] * 2, vocab_size=400)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def options(corpus: Path, home: Path, name: str, **changes: Any) -> ClipOptions:
    values: dict[str, Any] = {"device": "cpu", "steps": 45, "batch": 16, "warmup": 5, "ema": 0.9, "report_every": 1}
    loop = LoopOptions(out=home / name, **{**values, **changes})
    return ClipOptions((corpus,), loop, preset="tiny", cache=home / "prepared")


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_it_learns_a_toy_set_and_to_tell_sides_and_colours(
    corpus: Path, home: Path, vae: VAE, tokenizer: Tokenizer
) -> None:
    train_clip.train(options(corpus, home, "toy", steps=90), vae, tokenizer)
    found = history(home / "toy")[-1]
    assert found["val_chance"] == 1 / 8
    assert found["val_text_to_image"] >= 0.75
    assert found["val_image_to_text"] >= 0.75
    assert found["val_false"] >= 0.75
    assert found["val_torn"] >= 0.75
    again = train_clip.load(home / "toy")
    batches = batches_of(corpus, home, vae, tokenizer)
    measured = list(batches.examples.held_out())
    assert len(measured) == 8
    figures = {name: value for name, value in found.items() if name.startswith("val_")}
    assert train_clip.retrieval(again, batches, measured, batch=3) == figures
    assert train_clip.retrieval(again, batches, []) == {}
    train_clip.train(options(corpus, home, "on", steps=1), vae, tokenizer, again)
    assert history(home / "on")[0]["loss"] < history(home / "toy")[0]["loss"] / 2


def test_a_run_that_was_stopped_goes_on_with_the_same_losses(
    corpus: Path, home: Path, vae: VAE, tokenizer: Tokenizer
) -> None:
    train_clip.train(options(corpus, home, "whole", steps=4), vae, tokenizer)
    train_clip.train(options(corpus, home, "parts", steps=4, minutes=0.0), vae, tokenizer)
    assert len(history(home / "parts")) == 1
    train_clip.train(options(corpus, home, "parts", steps=4), vae, tokenizer)
    whole, parts = ([line["loss"] for line in history(home / name)] for name in ("whole", "parts"))
    assert parts == whole


def batches_of(corpus: Path, home: Path, vae: VAE, tokenizer: Tokenizer, **changes: Any) -> Batches:
    chosen = options(corpus, home, "unused", **changes)
    place = find_place(chosen.loop)
    return Batches(find_examples(chosen, vae, place), tokenizer, chosen, vae.config.grid)


def test_a_batch_leaves_out_what_may_be_true(corpus: Path, home: Path, vae: VAE, tokenizer: Tokenizer) -> None:
    batches = batches_of(corpus, home, vae, tokenizer)
    batch = batches(0, 0, 16)
    torn = batch.image[16:]
    assert len(torn) > 8  # of plain squares some copies would hardly differ
    assert all(bool((copy != batch.image[:16]).any(1).all()) for copy in torn)
    assert batch.text.shape[0] == len(batch.lengths) == batch.left_out.shape[1] == 32  # every caption can be false
    texts = [tokenizer.decode(ids[:length]) for ids, length in zip(batch.text.tolist(), batch.lengths, strict=True)]
    for i in range(16):
        for j, text in enumerate(texts):  # a false caption may happen to be another picture's own
            assert bool(batch.left_out[i, j]) == (text == texts[i] and j not in (i, 16 + i))
        assert texts[16 + i] != texts[i]
    assert torch.equal(batch.image, batches(0, 0, 16).image)
    assert not torch.equal(batch.image, batches(1, 0, 16).image)
    losses = train_clip.losses(train_clip.load(home / "toy"), batch)
    assert 0 < float(losses["loss"].detach()) < 10


def test_a_torn_picture_is_of_two_pictures_or_has_blank_places() -> None:
    image, other = np.arange(1024) % 7 + 10, np.arange(1024) % 11 + 100
    image[:400] = 5  # the background
    shares, kinds = [], {"other": 0, "blank": 0}
    for seed in range(200):
        torn = tear(image, other, 32, np.random.default_rng(seed))
        if torn is None:  # a window on the background, time and again
            continue
        differs = torn != image
        blank, taken = bool((torn[differs] == 5).all()), bool((torn[differs] == other[differs]).all())
        assert blank != taken
        kinds["blank" if blank else "other"] += 1
        shares.append(float(differs.mean()))
    assert sum(kinds.values()) > 190
    assert min(kinds.values()) > 30
    assert min(shares) >= 6 / 1024
    assert max(shares) < 0.5
    assert tear(np.zeros(1024, np.int64), np.zeros(1024, np.int64), 32, np.random.default_rng(0)) is None


def test_pictures_are_shifted_by_a_few_tokens_at_most(corpus: Path, home: Path, vae: VAE, tokenizer: Tokenizer) -> None:
    batches = batches_of(corpus, home, vae, tokenizer)
    image = np.arange(1024)
    moved = {int(batches._shifted(image, np.random.default_rng(i))[16 * 32 + 16]) for i in range(200)}
    assert moved == {(16 + y) * 32 + 16 + x for y in range(-2, 3) for x in range(-2, 3)}


@pytest.mark.parametrize(
    ("caption", "others"),
    [
        ("a red apple", {f"a {c} apple" for c in (
            "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "brown", "gray", "black", "white"
        )}),
        ("a cat to the left of a dog", {"a cat to the right of a dog"}),
        ("Two cats above a dog", {"three cats above a dog", "four cats above a dog", "five cats above a dog",
                                  "Two cats below a dog"}),
        ("3 cats", {"2 cats", "4 cats", "5 cats"}),
    ],
)  # fmt: skip
def test_a_false_caption_differs_in_one_word(caption: str, others: set[str]) -> None:
    draw = random.Random(0)
    assert {falsify(caption, draw) for _ in range(300)} == others


def test_a_caption_without_such_words_cannot_be_made_false() -> None:
    assert falsify("a bored cat on a reddish roof", random.Random(0)) is None


def test_which_captions_may_fit_another_picture() -> None:
    heart = all_words([(0.5, "a red heart"), (0.5, "a heart, love")])
    assert heart == {"a", "red", "heart", "love"}
    for caption, concept, fits in (
        ("A Heart", "heart", True),  # says less, and nothing else
        ("a blue heart", "blue heart", False),
        ("a card", "red heart", True),  # of the same concept
        ("a heart on a card", None, False),
    ):
        assert may_fit(words(caption), concept, heart, "red heart") == fits
    assert not may_fit(words("a card"), None, heart, None)  # two pictures without a concept do not share one
