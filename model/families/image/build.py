"""The network of an image tokenizer's config."""

from __future__ import annotations

from model.families.image.config import DiscreteVAEConfig, ImageConfig, OpenAIDVAEConfig
from model.families.image.discrete_vae import DiscreteVAE
from model.families.image.openai_dvae import OpenAIDVAE
from model.families.image.tokenizer import ImageTokenizer
from model.families.image.vqgan import VQGAN


def network(config: ImageConfig) -> ImageTokenizer:
    """An image tokenizer with random weights; built on torch's current default device, the meta device too."""
    if isinstance(config, DiscreteVAEConfig):
        return DiscreteVAE(config)
    return OpenAIDVAE(config) if isinstance(config, OpenAIDVAEConfig) else VQGAN(config)
