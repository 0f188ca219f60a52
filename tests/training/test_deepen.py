"""A deeper decoder first decodes like the decoder that it was made from."""

from __future__ import annotations

import pytest
import torch

from model.config import VAEConfig, from_preset
from model.errors import DataError
from model.training.deepen import deepen
from model.vae import VAE


def random_vae() -> VAE:
    torch.manual_seed(0)
    vae = VAE(from_preset(VAEConfig, "tiny")).eval()
    for parameter in vae.parameters():  # nothing starts at zero, so that everything counts
        torch.nn.init.normal_(parameter, std=0.1)
    return vae


def test_a_deeper_decoder_decodes_like_the_original_at_first() -> None:
    vae = random_vae()
    config = vae.config
    more = {"decoder_blocks": config.decoder_blocks + 2, "decoder_mid_blocks": config.decoder_mid_blocks + 1}
    deeper = deepen(vae, more).eval()
    assert (deeper.config.decoder_blocks, deeper.config.decoder_mid_blocks) == tuple(more.values())
    size = config.image_size
    images = torch.rand(2, 3, size, size)
    ids = vae.encode(images)
    assert torch.equal(deeper.encode(images), ids)
    torch.testing.assert_close(deeper.decode(ids), vae.decode(ids))
    trained = [name for name, p in deeper.named_parameters() if p.requires_grad and name.startswith("decoder.blocks")]
    assert len(trained) > len([name for name, _ in vae.named_parameters() if name.startswith("decoder.blocks")])
    deeper(images)[0].square().mean().backward()
    grown = dict(deeper.named_parameters())[f"decoder.blocks.{config.decoder_blocks + 1}.conv2.weight"]
    assert grown.grad is not None
    assert grown.grad.abs().max() > 0


def test_no_block_is_taken_away() -> None:
    vae = random_vae()
    with pytest.raises(DataError, match=f"decoder_blocks must be {vae.config.decoder_blocks} or more.*, got 0"):
        deepen(vae, {"decoder_blocks": 0})
