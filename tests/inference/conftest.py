"""A checkpoint small enough for whole pictures in milliseconds: 8 x 8 tokens of 512 codes, 64 x 64 pixels."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.checkpoints import Checkpoint
from model.config import CheckpointConfig, TransformerConfig, VAEConfig, from_preset
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from model.vae import VAE
from tests.conftest import randomise

LEVELS = (8, 8, 8)
GRID = 8
CELLS = GRID * GRID
STEPS = CELLS // 4
SIZE = GRID * 8


@pytest.fixture(scope="session")
def small() -> Checkpoint:
    """A checkpoint with seeded random weights. Its models are shared by the session: do not change them."""
    vae_sizes = from_preset(VAEConfig, "tiny", image_size=SIZE, levels=LEVELS)
    sizes = from_preset(
        TransformerConfig,
        "tiny",
        grid=GRID,
        text_vocab=300,
        text_tokens=48,
        image_vocab=512,
        code_levels=LEVELS,
        group=4,
    )
    config = CheckpointConfig(name="small", licence="Apache-2.0", vae=vae_sizes, transformer=sizes)
    vae, transformer = VAE(vae_sizes), Transformer(sizes)
    randomise(vae, seed=3)
    randomise(transformer, seed=4)
    tokenizer = Tokenizer.train(["a red apple", "a blue circle"], vocab_size=300)
    return Checkpoint(config, tokenizer, vae.eval(), transformer.eval(), Path("small"))
