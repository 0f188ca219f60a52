"""Configs of image tokenizers, and what their networks refuse."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from model.errors import CheckpointError
from model.families.image.build import network
from model.families.image.config import DiscreteVAEConfig, ImageConfig, OpenAIDVAEConfig, VQGANConfig
from model.families.image.vqgan import inverse_haar
from model.limits import build

TINY: tuple[ImageConfig, ...] = (
    DiscreteVAEConfig(image_size=32, codes=20, code_dim=8, layers=2, blocks=1, width=8),
    OpenAIDVAEConfig(image_size=32, codes=20, width=4, code_dim=8, blocks=1),
    VQGANConfig(image_size=32, codes=20, code_dim=8, latent=8, stem=32, widths=(32, 32), blocks=1, attention=(1,)),
    VQGANConfig(
        image_size=32,
        codes=20,
        known=18,
        nameless=5,
        unknown=19,
        code_dim=8,
        latent=8,
        stem=32,
        widths=(32, 32),
        blocks=1,
        attention=(1,),
    ),
)


@pytest.mark.parametrize("config", TINY, ids=lambda config: config.family)
def test_a_config_comes_back_from_json(config: ImageConfig) -> None:
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    assert build(type(config), values, "config.json", "vae") == config
    assert config.encodes


@pytest.mark.parametrize("config", TINY, ids=lambda config: config.family)
def test_what_a_network_refuses(config: ImageConfig) -> None:
    net = network(config).eval()
    grid = config.grid
    with pytest.raises(ValueError, match=r"pictures must be \(batch, 3, 32, 32\) of floats in \[0, 1\], got \(1, 3, 8"):
        net.encode(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="of torch.uint8"):
        net.encode(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="ids must be from 0 to 19, got 0 to 20"):
        net.decode(torch.arange(grid**2)[None] % 2 * 20)
    with pytest.raises(
        ValueError, match=rf"ids must be \(batch, {grid}, {grid}\) or \(batch, {grid**2}\), got \(1, 3\)"
    ):
        net.decode(torch.zeros(1, 3, dtype=torch.int64))
    painted = net.decode(torch.randint(0, 20, (5, grid, grid)))
    assert painted.dtype == torch.float32
    assert 0 <= float(painted.min()) <= float(painted.max()) <= 1


@pytest.mark.parametrize("config", TINY, ids=lambda config: config.family)
def test_half_precision_paints_float32(config: ImageConfig) -> None:
    torch.manual_seed(0)
    net = network(config).eval()
    ids = torch.randint(0, 20, (1, config.grid, config.grid))
    whole = net.decode(ids)
    net.bfloat16()
    painted = net.decode(ids)
    assert painted.dtype == torch.float32
    assert (painted - whole).abs().max() < 0.05
    assert net.encode(painted).dtype == torch.int64


@pytest.mark.parametrize(
    ("cls", "values", "said"),
    [
        (DiscreteVAEConfig, {"layers": 10**9}, "layers must be an integer from 1 to 8"),
        (DiscreteVAEConfig, {"mean": [0.5]}, "mean must be a list of 3 numbers"),
        (OpenAIDVAEConfig, {"width": 6}, "width must be a multiple of 4"),
        (OpenAIDVAEConfig, {"blocks": 10**9}, "blocks must be an integer from 1"),
        (VQGANConfig, {"widths": [128] * 9}, "widths must be a list of 1 to 8 integers"),
        (VQGANConfig, {"attention": [4, 0]}, "attention must be levels from 0 to 4 in their order"),
        (VQGANConfig, {"attention": [5]}, "attention must be levels from 0 to 4 in their order"),
        (VQGANConfig, {"quantiser": "best"}, "quantiser must be one of nearest, cosine, gumbel, got 'best'"),
        (VQGANConfig, {"quantiser": "gumbel", "code_dim": 8}, "code_dim must be latent, 256"),
        (VQGANConfig, {"known": 1025}, "known must be at most 1024, as codes says, got 1025"),
        (VQGANConfig, {"unknown": 1024}, "unknown must be at most 1023, as codes says, got 1024"),
        (VQGANConfig, {"quantiser": "gumbel", "nameless": 3}, "nameless must be 0 where quantiser is gumbel, got 3"),
        (VQGANConfig, {"image_size": 250}, "image_size must be a multiple of 16"),
        (VQGANConfig, {"codes": 10**6}, "codes must be an integer from 1 to 32768"),
    ],
)
def test_a_config_that_cannot_be(cls: type, values: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        build(cls, values, "config.json", "vae")


def test_the_haar_step_undoes_the_transform() -> None:
    """Mallat's transform of each 2 x 2 block: its sums and differences, halved; inverse_haar gives the block back."""
    x = torch.randn(2, 3, 8, 8)
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    high = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], dim=2).flatten(1, 2)
    assert torch.allclose(inverse_haar(torch.cat([a + b + c + d, high], dim=1) / 2), x, atol=1e-6)


def test_levels_make_the_grid() -> None:
    assert VQGANConfig().grid == 16
    assert VQGANConfig(widths=(128, 128, 256, 512), attention=(3,)).grid == 32
    assert VQGANConfig(image_size=512, widths=(128, 128, 256, 512), attention=(3,), wavelet=True).grid == 32
    assert DiscreteVAEConfig(layers=4).grid == 16
    assert OpenAIDVAEConfig().grid == 32
