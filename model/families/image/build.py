"""The network of an image tokenizer's config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from model.families.image.config import DiscreteVAEConfig, ImageConfig, OpenAIDVAEConfig, VQGANConfig
from model.families.image.discrete_vae import DiscreteVAE
from model.families.image.openai_dvae import OpenAIDVAE
from model.families.image.tokenizer import ImageTokenizer
from model.families.image.vqgan import VQGAN

NETWORKS: dict[type, Callable[[Any], ImageTokenizer]] = {
    DiscreteVAEConfig: DiscreteVAE,
    OpenAIDVAEConfig: OpenAIDVAE,
    VQGANConfig: VQGAN,
}


def network(config: ImageConfig) -> ImageTokenizer:
    """An image tokenizer with random weights; built on torch's current default device, the meta device too."""
    return NETWORKS[type(config)](config)
