"""The transformer: the cached logits equal the uncached ones, and no position sees a later one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.config import TransformerConfig, from_preset
from model.transformer import Transformer
from model.transformer.local import CodeTable


def random_transformer(**changes: object) -> Transformer:
    """A tiny model whose every weight matters (trained ones start as the identity)."""
    torch.manual_seed(0)
    model = Transformer(from_preset(TransformerConfig, "tiny", **changes)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    return model


def ids(model: Transformer, rows: int = 2, text: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    words = torch.randint(3, model.config.text_vocab, (rows, text))
    words[:, 0], words[:, -1] = 0, 1
    return words, torch.randint(0, model.config.image_vocab, (rows, model.config.image_tokens))


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("by_slice", [False, True])
def test_cached_equals_uncached(group: int, by_slice: bool) -> None:
    model = random_transformer(grid=8, group=group)
    text, image = ids(model)
    whole = model.logits(text, image)[:, text.shape[1] - 1 :, model.config.text_vocab :]
    cache = model.new_cache(4)
    slots = torch.tensor([0, 1]) if by_slice else torch.tensor([3, 1])
    hidden = model.prefill(cache, slots, text)
    for step in range(model.config.steps):
        for j in range(group):
            place = step * group + j
            found = model.image_logits(hidden, image[:, place - j : place])
            torch.testing.assert_close(found, whole[:, place], rtol=1e-4, atol=1e-4)
        if step < model.config.steps - 1:
            span = None if step % 2 else text.shape[1] + step + 1
            hidden = model.decode(
                cache, slice(0, 2) if by_slice else slots, image[:, place - group + 1 : place + 1], span
            )
    assert cache.length[slots].tolist() == [text.shape[1] + model.config.steps - 1] * 2


def test_rows_at_different_places_do_not_mix() -> None:
    model = random_transformer(grid=8)
    text, image = ids(model)
    alone = model.new_cache(1)
    model.prefill(alone, torch.tensor([0]), text[:1])
    crowd = model.new_cache(2)
    model.prefill(crowd, torch.tensor([1]), text[1:, [0, 1, 4]])
    for step in range(3):
        model.decode(crowd, torch.tensor([1]), image[1:, step * 4 : step * 4 + 4])
    model.prefill(crowd, torch.tensor([0]), text[:1])
    for step in range(4):
        fed = image[:, step * 4 : step * 4 + 4].clone()
        expected = model.decode(alone, torch.tensor([0]), fed[:1])
        found = model.decode(crowd, slice(0, 2), fed)
        torch.testing.assert_close(found[:1], expected, rtol=1e-4, atol=1e-5)
    assert crowd.length.tolist() == [5 + 4, 3 + 7]


def test_a_copied_slot_goes_on_like_its_source() -> None:
    model = random_transformer(grid=8)
    text, image = ids(model)
    cache = model.new_cache(3)
    model.prefill(cache, torch.tensor([0]), text[:1])
    cache.copy(0, torch.tensor([2, 1]), length=text.shape[1])
    hidden = model.decode(cache, torch.tensor([0, 1, 2]), image[:1, :4].expand(3, 4))
    torch.testing.assert_close(hidden[1], hidden[0])
    torch.testing.assert_close(hidden[2], hidden[0])


def test_nothing_looks_ahead() -> None:
    model = random_transformer(grid=8)
    text, image = ids(model)
    before = model.logits(text, image)
    place = 21
    changed = image.clone()
    changed[:, place] = (changed[:, place] + 1) % model.config.image_vocab
    after = model.logits(text, changed)
    here = text.shape[1] + place  # the first position that has seen the changed token
    torch.testing.assert_close(after[:, :here], before[:, :here])
    assert not torch.allclose(after[:, here, model.config.text_vocab :], before[:, here, model.config.text_vocab :])
    words = text.clone()
    words[:, 2] += 1
    assert not torch.allclose(
        model.logits(words, image)[:, -2, model.config.text_vocab :], before[:, -2, model.config.text_vocab :]
    )
    torch.testing.assert_close(model.logits(words, image)[:, :2], before[:, :2])


def test_logits_have_the_promised_shape_and_blocks() -> None:
    model = random_transformer(grid=8)
    text, image = ids(model)
    t, words = text.shape[1], model.config.text_vocab
    for k in (0, 1, 17, model.config.image_tokens):
        found = model.logits(text, image[:, :k])
        assert found.shape == (2, t + k, words + model.config.image_vocab)
        assert found.dtype == torch.float32
        assert torch.isfinite(found[:, : t - 1, :words]).all()
        assert torch.isinf(found[:, : t - 1, words:]).all()
        assert torch.isinf(found[:, t - 1 :, :words]).all()
        assert torch.isfinite(found[:, t - 1 : t + min(k, model.config.image_tokens - 1), words:]).all()
    torch.testing.assert_close(model.logits(text, image[:, :9]), model.logits(text, image)[:, : t + 9])


def test_wrong_ids_are_named() -> None:
    model = random_transformer(grid=8)
    text, image = ids(model)
    with pytest.raises(ValueError, match="image_ids must be from 0 to 8191, got 8"):
        model.logits(text, image + 8192)
    with pytest.raises(ValueError, match=r"got \(2, 5\) and \(1, 64\)"):
        model.logits(text, image[:1])


def test_a_config_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="group: 3"):
        TransformerConfig(group=3)
    with pytest.raises(ValueError, match="code_levels"):
        TransformerConfig(image_vocab=1024)
    with pytest.raises(ValueError, match="got 'huge'"):
        from_preset(TransformerConfig, "huge")


def test_training_on_a_cpu_attends_as_serving_does() -> None:
    """States with gradients take another path than those without."""
    model = random_transformer(grid=8)
    text, image = ids(model)
    lengths = torch.tensor([5, 4])
    with torch.no_grad():
        plain = model.states(text, lengths, image)
    for found, expected in zip(model.states(text, lengths, image), plain, strict=True):
        assert found.requires_grad
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_codes_may_share_no_parts() -> None:
    model = Transformer(from_preset(TransformerConfig, "tiny", text_vocab=300, code_levels=())).eval()
    found = model.logits(torch.tensor([[0, 1]]), torch.zeros(1, 4, dtype=torch.int64))
    assert found[:, -1, 300:].isfinite().all()  # of the image codes


def test_a_code_is_its_own_part_and_those_of_its_levels() -> None:
    table = CodeTable(from_preset(TransformerConfig, "tiny"))
    expected = table.own.clone()
    for part, digit in zip(table.shared, table.digits(), strict=True):
        expected = expected + part[digit]
    assert torch.equal(table(), expected)
