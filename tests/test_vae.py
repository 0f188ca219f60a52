"""The image tokenizer: ids out, pictures back, and a quantiser that uses its whole codebook."""

from __future__ import annotations

import pytest
import torch

from model.config import VAEConfig, from_preset
from model.vae import VAE
from model.vae.quantiser import FSQ


def test_every_code_has_one_place_on_the_grid() -> None:
    quantiser = FSQ((8, 8, 8, 16))
    every = torch.arange(8192)
    codes = quantiser.codes(every)
    assert codes.shape == (8192, 4)
    assert codes.abs().max() <= 1
    assert torch.equal(quantiser.ids(codes), every)
    assert len({tuple(code) for code in codes.tolist()}) == 8192


def test_the_quantiser_reaches_every_code_and_passes_gradients() -> None:
    torch.manual_seed(0)
    quantiser = FSQ((8, 8, 8, 16))
    z = (torch.rand(400_000, 4) * 2 - 1) * 2.5
    assert len(set(quantiser.ids(quantiser(z)).tolist())) > 8100
    z = torch.randn(8, 4, requires_grad=True)
    quantiser(z).sum().backward()
    assert z.grad is not None
    assert (z.grad > 0).all()


def test_shapes_ranges_and_round_trip() -> None:
    torch.manual_seed(0)
    vae = VAE(from_preset(VAEConfig, "tiny")).eval()
    images = torch.rand(2, 3, 256, 256)
    ids = vae.encode(images)
    assert ids.shape == (2, 32, 32)
    assert ids.dtype == torch.int64
    assert ids.min() >= 0
    assert ids.max() < 8192
    painted = vae.decode(ids)
    assert painted.shape == images.shape
    assert painted.dtype == torch.float32
    assert painted.min() >= 0
    assert painted.max() <= 1
    assert torch.equal(vae.decode(ids.flatten(1)), painted)


def test_a_code_depends_on_its_surroundings_only() -> None:
    torch.manual_seed(0)
    vae = VAE(from_preset(VAEConfig, "tiny")).eval()
    images = torch.ones(1, 3, 256, 256)
    changed = images.clone()
    changed[:, :, 200:, 200:] = 0
    before, after = vae.encode(images), vae.encode(changed)
    assert torch.equal(before[:, :12, :12], after[:, :12, :12])


def test_wrong_input_is_named() -> None:
    vae = VAE(from_preset(VAEConfig, "tiny")).eval()
    with pytest.raises(ValueError, match=r"pictures must be .*, got \(1, 3, 64, 64\)"):
        vae.encode(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="uint8"):
        vae.encode(torch.zeros(1, 3, 256, 256, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"ids must be .*, got \(1, 31, 32\)"):
        vae.decode(torch.zeros(1, 31, 32, dtype=torch.int64))
    with pytest.raises(ValueError, match="0 to 8191"):
        vae.decode(torch.full((1, 32, 32), 8192))
