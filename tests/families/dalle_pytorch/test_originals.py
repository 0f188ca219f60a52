"""Files of DALLE-pytorch's versions give the logits and the tokens that the package itself gives."""

from __future__ import annotations

import pytest
import torch

from tests.families.dalle_pytorch.originals import NAMES, imported, network, original


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_package_s(name: str) -> None:
    made = original(name)
    model = network(imported(made.content))
    config = model.config
    first, text = config.max_text - 1, config.text_columns
    found = model.logits(made.text_ids, made.image_ids)
    assert found.shape == (2, config.max_text + 16, text + 11)
    torch.testing.assert_close(found[:, :first, :text], made.text_logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(found[:, first:-1, text:], made.image_logits, rtol=0, atol=1e-4)
    assert (found[:, :first, text:] == -torch.inf).all()
    assert (found[:, first:, :text] == -torch.inf).all()
    assert (found[:, -1] == -torch.inf).all()
    # One by one, cut short in the picture, and of a text without its padding.
    for row in (0, 1):
        alone = model.logits(made.text_ids[row : row + 1], made.image_ids[row : row + 1, :7])
        torch.testing.assert_close(alone, found[row : row + 1, : config.max_text + 7], rtol=0, atol=1e-4)
    torch.testing.assert_close(
        model.logits(made.text_ids[:1, :2], made.image_ids[:1, :0]), found[:1, : config.max_text], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("name", NAMES)
def test_cached_logits_are_the_package_s(name: str) -> None:
    made = original(name)
    model = network(imported(made.content))
    model.pack()
    cache, nothing = model.new_cache(3), made.image_ids[:, :0]
    hidden = model.prefill(cache, torch.tensor([2, 1]), made.text_ids)
    for step in range(16):
        found = model.image_logits(hidden, nothing)
        torch.testing.assert_close(found, made.image_logits[:, step], rtol=0, atol=1e-4)
        if step < 15:
            hidden = model.decode(cache, torch.tensor([2, 1]), made.image_ids[:, step : step + 1])


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_logit_gives_the_package_s_tokens(name: str) -> None:
    made = original(name)
    model = network(imported(made.content))
    cache = model.new_cache(1)
    hidden = model.prefill(cache, torch.tensor([0]), made.text_ids[:1])
    drawn: list[int] = []
    while len(drawn) < 16:
        drawn.append(int(model.image_logits(hidden, made.image_ids[:1, :0]).argmax()))
        if len(drawn) < 16:
            hidden = model.decode(cache, slice(0, 1), torch.tensor([drawn[-1:]]))
    assert drawn == made.greedy.tolist()
