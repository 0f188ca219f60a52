"""A checkpoint with seeded random weights that paints a picture of 64 x 64 in milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch

from model.checkpoints import save
from model.clip import Clip
from model.config import CheckpointConfig, ClipConfig, SamplingDefaults, TransformerConfig, VAEConfig, from_preset
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from model.vae import VAE
from tests.conftest import CAPTIONS, randomise

LEVELS = (4, 4)
SIZE = 64


def save_quick(path: Path, name: str = "quick", seed: int = 1) -> Path:
    """Save a checkpoint of 8 x 8 tokens of 16 codes, with a CLIP, as the folder `path`, and return that.

    seed: of the weights.
    """
    judge = from_preset(ClipConfig, "tiny", text_vocab=512, grid=8, levels=LEVELS)
    config = CheckpointConfig(
        name=name,
        licence="Apache-2.0",
        vae=from_preset(VAEConfig, "tiny", image_size=SIZE, levels=LEVELS),
        transformer=from_preset(
            TransformerConfig, "tiny", text_vocab=512, image_vocab=16, code_levels=LEVELS, grid=8, depth=1
        ),
        sampling=SamplingDefaults(temperature=0.9, guidance=2.0),
        clip=judge,
    )
    assert isinstance(config.vae, VAEConfig)
    assert isinstance(config.transformer, TransformerConfig)
    vae, transformer, clip = VAE(config.vae), Transformer(config.transformer), Clip(judge)
    for number, module in enumerate((vae, transformer, clip), seed):
        randomise(module, number)
    tokenizer = Tokenizer.train(CAPTIONS * 2, vocab_size=512)
    save(path, config, tokenizer, vae, transformer, dtype=torch.float32, clip=clip)
    return path
