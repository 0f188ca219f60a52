"""Pictures under words of something else, of which the later part is learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from model.config import TransformerConfig, from_preset
from model.tokenizer import Tokenizer
from model.training.batches import Batches, ExampleDraws, easy, late
from model.training.examples import Example
from model.training.options import LoopOptions, TransformerOptions

PICTURES = {
    "red-circle": np.concatenate([np.zeros(512, np.int64), np.arange(512)]),
    "cat": np.concatenate([np.zeros(256, np.int64), np.arange(768) + 1000]),
}


class Two:
    """A red circle at even places, a cat at odd ones."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def draw(self, _step: int, place: int, *_: object) -> Example:
        name = list(PICTURES)[place % 2]
        return Example([(1.0, f"a {name.replace('-', ' ')}")], PICTURES[name], name, self.kind)


def batches_of(checkpoint: Path, contradict: float, kind: str = "single") -> tuple[Tokenizer, Batches]:
    tokenizer = Tokenizer.load(checkpoint / "tokenizer.json")
    loop = LoopOptions(out=Path("nowhere"), steps=1, batch=4)
    options = TransformerOptions((), loop, contradict=contradict, null_captions=0.0, easy_share=1.0)
    config = from_preset(TransformerConfig, "tiny", text_vocab=tokenizer.vocab_size)
    return tokenizer, Batches(ExampleDraws(Two(kind), tokenizer, options), options, config)  # type: ignore[arg-type]


def test_a_contradicted_picture_is_seen_whole_and_learnt_from_where_it_is_begun(tiny_checkpoint: Path) -> None:
    tokenizer, batches = batches_of(tiny_checkpoint, 1.0)
    batch = batches(0, 0, 4)
    assert batch.plain is not None
    for i in range(4):
        own, other = (list(PICTURES)[(i + shift) % 2] for shift in (0, 1))
        assert batch.image[i].tolist() == PICTURES[own].tolist()
        words = tokenizer.encode(f"a {other.replace('-', ' ')}")
        assert batch.text[i, : batch.lengths[i]].tolist() == words
        assert bool((batch.seen[i] == 1).all())
        assert not batch.plain[i]  # what a text goes on with is not learnt from words that do not fit
        inside = np.pad(np.ones((28, 28), bool), 2).flatten()
        drawn = np.flatnonzero(~easy(torch.from_numpy(PICTURES[own]), 32).numpy() & inside)
        first = int(batch.loss_weights[i].nonzero()[0])
        assert len(drawn[drawn < first]) >= 0.03 * len(drawn) - 1
        assert bool((batch.loss_weights[i, first:] == 1).all())


def test_where_a_picture_counts_as_begun_differs(tiny_checkpoint: Path) -> None:
    image = torch.from_numpy(PICTURES["cat"]).expand(3, -1)
    firsts = late(image, 32, torch.tensor([0.03, 0.3, 0.7])).int().argmax(1).tolist()
    assert firsts == sorted(firsts)
    assert 256 <= firsts[0] < 350
    assert firsts[2] > 650
    _, batches = batches_of(tiny_checkpoint, 1.0)
    again = batches(3, 0, 4)
    assert torch.equal(again.loss_weights, batches(3, 0, 4).loss_weights)
    begun = batches(3, 0, 4).loss_weights.ne(0).int().argmax(1)
    assert len({*begun.tolist()}) > 2


def test_a_pair_is_never_contradicted_as_its_second_thing_cannot_be_told(tiny_checkpoint: Path) -> None:
    tokenizer, batches = batches_of(tiny_checkpoint, 1.0, kind="pair")
    batch = batches(0, 0, 4)
    assert batch.text[0, : batch.lengths[0]].tolist() == tokenizer.encode("a red circle")
    assert bool((batch.loss_weights == 1).all())


def test_without_it_captions_are_the_pictures_own(tiny_checkpoint: Path) -> None:
    _, batches = batches_of(tiny_checkpoint, 0.0)
    batch = batches(0, 0, 4)
    assert bool((batch.loss_weights == 1).all())
    assert batch.plain is not None
    assert bool(batch.plain.all())
