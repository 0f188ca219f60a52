"""Packed products, and the widths and threads that a step may be computed with."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from model.checkpoints import Checkpoint
from model.families.dalle_pytorch.config import DallePytorchConfig
from model.families.dalle_pytorch.transformer import DallePytorchTransformer
from model.inference.engine import Engine
from model.inference.requests import GenerationRequest, SamplingParams
from model.inference.widths import candidates, measure_widths, thread_counts
from model.transformer.linear import Linear, can_pack

packs = pytest.mark.skipif(not can_pack(torch.zeros(1)), reason="this machine's PyTorch packs no weights")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@packs
def test_a_packed_layer_computes_what_the_plain_one_does_and_alike_at_every_width() -> None:
    torch.manual_seed(0)
    linear = Linear(320, 1280)
    x = torch.randn(9, 1, 320)
    plain = F.linear(x, linear.weight, linear.bias)
    linear.pack()
    with torch.inference_mode():
        packed = linear(x)
        assert torch.allclose(packed, plain, atol=1e-5)
        for width in range(1, 9):
            assert torch.equal(linear(x[:width]), packed[:width])


@packs
def test_a_packed_layer_still_learns_and_what_it_has_learnt_counts() -> None:
    linear = Linear(8, 8, bias=False)
    linear.pack()
    with torch.no_grad():
        linear.weight.mul_(2.0)
    x = torch.randn(3, 8)
    found = linear(x)
    assert torch.equal(found, F.linear(x, linear.weight))
    found.sum().backward()
    assert linear.weight.grad is not None
    with torch.inference_mode():
        assert torch.equal(linear(x), F.linear(x, linear.weight))


@packs
def test_a_packed_transformer_gives_the_same_logits(small: Checkpoint) -> None:
    packed = copy.deepcopy(small.own().transformer).eval()
    packed.pack()
    plain = copy.deepcopy(packed)  # a copy is not packed, as its weights may change
    text, image = torch.tensor([[1, 5, 6, 2]]), torch.arange(10)[None]
    found, expected = packed.logits(text, image), plain.logits(text, image)
    finite = expected.isfinite()
    assert torch.equal(found.isfinite(), finite)
    assert torch.allclose(found[finite], expected[finite], atol=1e-4)
    with torch.no_grad():
        for model in (packed, plain):
            model.local.codes.own.add_(1.0)
            model.local.bias.mul_(2.0)
            model.caption_in.bias.add_(0.5)
    changed = packed.logits(text, image)
    assert torch.allclose(changed[finite], plain.logits(text, image)[finite], atol=1e-4)
    assert not torch.allclose(changed[finite], found[finite], atol=1e-2)


def test_what_is_tried() -> None:
    assert candidates(8) == [1, 2, 4, 8]
    assert candidates(6) == [1, 2, 4, 6]
    assert thread_counts(1) == [1]
    assert thread_counts(6) == [1, 2, 4, 6]
    assert thread_counts(8) == [1, 2, 4, 8]


@pytest.mark.usefixtures("two_threads")
def test_strict_widths_hold_the_full_one_and_leave_the_threads_as_they_were(small: Checkpoint) -> None:
    transformer = small.transformer.eval()
    found = measure_widths(transformer, transformer.new_cache(9), 8)
    assert found == {1: 2} or 8 in found
    assert list(found) == sorted(found)
    assert set(found.values()) <= {1, 2}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_only_steps_have_threads_of_their_own(small: Checkpoint) -> None:
    engine = Engine(small, slots=4, native=False)
    engine.decoder.widths = dict.fromkeys(engine.decoder.widths, 1)
    engine.add(GenerationRequest("a", tuple(engine.tokenizer.encode("a red apple")), 2, SamplingParams(seed=0)))
    while engine.has_work:
        engine.step()
        assert torch.get_num_threads() == 2


def test_outside_strict_mode_every_width_is_one(small: Checkpoint) -> None:
    transformer = small.transformer.eval()
    assert list(measure_widths(transformer, transformer.new_cache(7), 6, strict=False)) == [1, 2, 3, 4, 5, 6]


def test_a_picture_of_one_token_has_nothing_to_measure() -> None:
    """Its token follows from the text alone, so no step decodes one."""
    config = DallePytorchConfig(5, 3, 4, grid=1, dim=8, depth=1, heads=1, head_dim=8, attention=("full",))
    transformer = DallePytorchTransformer(config).eval()
    assert list(measure_widths(transformer, transformer.new_cache(5), 4)) == [1, 2, 3, 4]
