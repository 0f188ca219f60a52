"""Text-only targets: a few tokens of a picture are predicted from its text alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import TransformerConfig, from_preset
from model.tokenizer import Tokenizer
from model.training.batches import TEXT_ONLY_GROUPS, Batches, ExampleDraws, easy
from model.training.examples import Example
from model.training.options import LoopOptions, TransformerOptions
from model.training.train_transformer import losses
from model.transformer import Transformer
from model.transformer.whole import compiled


class Halves:
    """A picture that is blank above and drawn below."""

    image = np.concatenate([np.zeros(512, np.int64), np.arange(512)])

    def draw(self, *_: object) -> Example:
        return Example([(1.0, "a red circle")], self.image, "red-circle")


def batches_of(tokenizer: Tokenizer, model: Transformer, *, glimpses: int, clutter: float = 0.0) -> Batches:
    loop = LoopOptions(out=Path("nowhere"), steps=1, batch=4)
    options = TransformerOptions((), loop, glimpses=glimpses, clutter=clutter)
    return Batches(ExampleDraws(Halves(), tokenizer, options), options, model.config)  # type: ignore[arg-type]


@pytest.fixture
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    return Tokenizer.load(tiny_checkpoint / "tokenizer.json")


@pytest.fixture
def model(tokenizer: Tokenizer) -> Transformer:
    torch.manual_seed(0)
    made = Transformer(from_preset(TransformerConfig, "tiny", text_vocab=tokenizer.vocab_size))
    with torch.no_grad():  # as blocks start as the identity
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return made


def test_text_only_targets_of_every_group_are_the_picture_with_all_tokens_withheld(model: Transformer) -> None:
    text, lengths = torch.tensor([[1, 9, 8, 7, 2], [1, 5, 2, 0, 0]]), torch.tensor([5, 3])
    image = torch.randint(0, 8192, (2, 1024))
    whole = model.states(text, lengths, image, torch.zeros(2, 1024))[1][:, model.config.group :]
    steps = torch.arange(1, model.config.steps).expand(2, -1)
    torch.testing.assert_close(model.text_only_states(text, lengths, steps), whole)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by the compiler itself
@pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning")  # likewise
@pytest.mark.parametrize("fixed", [False, True])
def test_the_pass_may_be_compiled_without_a_break(model: Transformer, fixed: bool) -> None:
    text, lengths = torch.tensor([[1, 9, 8, 7, 2], [1, 5, 2, 0, 0]]), torch.tensor([5, 3])
    image = torch.randint(0, 8192, (2, 1024))
    expected = model.states(text, lengths, image)[1]
    model.parts = compiled(fixed=fixed, backend="eager", fullgraph=True)
    torch.testing.assert_close(model.states(text, lengths, image)[1], expected)


def test_a_text_only_target_does_not_depend_on_padding_or_on_its_batch(model: Transformer) -> None:
    steps = torch.tensor([[3, 100, 250], [4, 90, 255]])
    text, lengths = torch.tensor([[1, 9, 8, 2], [1, 5, 2, 0]]), torch.tensor([4, 3])
    both = model.text_only_states(text, lengths, steps)
    alone = model.text_only_states(text[1:, :3], lengths[1:], steps[1:])
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)


def test_text_only_targets_are_of_groups_where_something_is_drawn(tokenizer: Tokenizer, model: Transformer) -> None:
    found = batches_of(tokenizer, model, glimpses=5)(0, 0, 4).text_only
    assert found is not None
    assert found.steps.shape == (20, TEXT_ONLY_GROUPS)
    assert bool((found.steps.diff(dim=1) > 0).all())
    group = model.config.group
    drawn = set(np.flatnonzero(~easy(torch.from_numpy(Halves.image), 32).numpy()) // group)
    assert {int(step) for step in found.steps.flatten()} <= drawn - {0}
    tokens = torch.from_numpy(Halves.image).view(-1, group)[found.steps].flatten(1)
    assert torch.equal(found.image, tokens)
    assert len({tuple(row.tolist()) for row in found.steps}) == 20
    assert batches_of(tokenizer, model, glimpses=0)(0, 0, 4).text_only is None


def test_text_only_targets_are_a_function_of_the_index_in_the_batch(tokenizer: Tokenizer, model: Transformer) -> None:
    batches = batches_of(tokenizer, model, glimpses=3, clutter=0.3)
    whole, second = batches(7, 0, 4).text_only, batches(7, 2, 4).text_only
    assert whole is not None
    assert second is not None
    assert torch.equal(whole.steps[6:], second.steps)
    assert torch.equal(whole.lengths[6:], second.lengths)
    plain = tokenizer.encode("a red circle")
    assert all(whole.text[i, : len(plain)].tolist() != plain for i in range(12))  # all such as people type


def test_a_text_only_token_counts_as_much_as_one_of_a_picture(tokenizer: Tokenizer, model: Transformer) -> None:
    batch = batches_of(tokenizer, model, glimpses=5)(0, 0, 4)
    told = {name: loss.item() for name, loss in losses(model, batch).items()}
    bare = {name: loss.item() for name, loss in losses(model, replace(batch, text_only=None)).items()}
    assert batch.text_only is not None
    share = batch.text_only.image.numel() / batch.image.numel()
    assert "glimpse_bits" not in bare
    expected = bare["loss"] + 7 / 8 * told["glimpse_bits"] * math.log(2) * share
    assert told["loss"] == pytest.approx(expected, rel=1e-5)


def test_words_are_learnt_from_text_only_targets(tokenizer: Tokenizer, model: Transformer) -> None:
    """From text-only targets alone, the model comes to know which of two pictures a text is about."""
    texts = {"love": 1000, "war": 5000}
    steps = torch.arange(8, 256, 31)[:TEXT_ONLY_GROUPS].expand(2, -1)
    encoded = [tokenizer.encode(text) for text in texts]
    width = max(map(len, encoded))
    text = torch.tensor([ids + [tokenizer.pad] * (width - len(ids)) for ids in encoded])
    lengths = torch.tensor([len(ids) for ids in encoded])
    wanted = torch.tensor(list(texts.values()))[:, None].expand(-1, TEXT_ONLY_GROUPS * model.config.group)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        logits = model.local.logits(model.text_only_states(text, lengths, steps))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    others = torch.tensor([5, 99, 200]).expand(2, -1)  # places that were never asked for
    found = model.local.logits(model.text_only_states(text, lengths, others)).argmax(-1)
    assert (found == wanted[:, :1]).float().mean() > 0.9
