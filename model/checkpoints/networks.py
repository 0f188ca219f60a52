"""Which network a section of config.json stands for: ours, or that of another family. Built without weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from model.config import TransformerConfig, VAEConfig
from model.families.causal import CausalTransformer
from model.families.dalle_pytorch.config import DallePytorchConfig
from model.families.dalle_pytorch.transformer import DallePytorchTransformer
from model.families.image import build
from model.families.image.tokenizer import ImageTokenizer
from model.families.kakaobrain.config import KakaobrainConfig
from model.families.kakaobrain.transformer import KakaobrainTransformer
from model.families.llamagen.config import LlamaGenConfig, LlamaGenTextConfig
from model.families.llamagen.text import LlamaGenTextTransformer
from model.families.llamagen.transformer import LlamaGenTransformer
from model.families.min_dalle.config import MinDalleConfig
from model.families.min_dalle.transformer import MinDalleTransformer
from model.families.rudalle.config import RuDalleConfig
from model.families.rudalle.transformer import RuDalleTransformer
from model.transformer import Transformer
from model.vae import VAE

AnyVAE = VAE | ImageTokenizer
AnyTransformer = Transformer | DallePytorchTransformer | MinDalleTransformer | RuDalleTransformer | CausalTransformer
AnyCache = Any  # what the transformer itself made by `new_cache`
NETWORKS: dict[type, Callable[[Any], nn.Module]] = {
    VAEConfig: VAE,
    **build.NETWORKS,
    TransformerConfig: Transformer,
    DallePytorchConfig: DallePytorchTransformer,
    MinDalleConfig: MinDalleTransformer,
    RuDalleConfig: RuDalleTransformer,
    LlamaGenConfig: LlamaGenTransformer,
    LlamaGenTextConfig: LlamaGenTextTransformer,
    KakaobrainConfig: KakaobrainTransformer,
}


def network(config: Any) -> nn.Module:
    """The network of a section. On the meta device it costs no memory."""
    return NETWORKS[type(config)](config)
