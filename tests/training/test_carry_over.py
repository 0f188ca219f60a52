"""A transformer whose codes were renumbered predicts the same as before, by the new ids."""

from __future__ import annotations

import torch

from model.config import TransformerConfig, from_preset
from model.training.carry_over import carry_over
from model.transformer import Transformer


def logits(model: Transformer, image: torch.Tensor) -> torch.Tensor:
    text = torch.tensor([[0, 5, 6, 1]]).expand(len(image), -1)
    with torch.no_grad():
        return model.logits(text, image)[:, 4:, model.config.text_vocab :]


def test_renamed_codes_are_carried_over() -> None:
    torch.manual_seed(0)
    model = Transformer(from_preset(TransformerConfig, "tiny", text_vocab=300)).eval()
    for parameter in model.parameters():  # nothing starts at zero, so that everything counts
        torch.nn.init.normal_(parameter, std=0.2)
    used, names = torch.randperm(8192)[:40], torch.randperm(8192)[:40]
    picture = torch.randint(0, 40, (6, 1024))
    before = logits(model, used[picture[:2, :64]])[:, :, used]
    carry_over(model, used[picture].repeat(20, 1), names[picture].repeat(20, 1))
    after = logits(model, names[picture[:2, :64]])
    torch.testing.assert_close(after[:, :, names], before, rtol=0.02, atol=0.02)
    others = torch.ones(8192, dtype=torch.bool)
    others[names] = False
    assert (model.local.bias[others] <= model.local.bias[names].min()).all()


def test_a_code_that_became_two_is_shared_out_by_how_often() -> None:
    torch.manual_seed(0)
    model = Transformer(from_preset(TransformerConfig, "tiny", text_vocab=300)).eval()
    torch.nn.init.normal_(model.local.bias)
    bias = model.local.bias[7].item()
    old = torch.full((1, 4000), 7)
    new = torch.where(torch.arange(4000) % 4 == 0, 100, 200)[None]
    carry_over(model, old, new)
    found = model.local.bias.detach()[[100, 200]].exp() / torch.tensor(bias).exp()
    torch.testing.assert_close(found, torch.tensor([0.25, 0.75]))
