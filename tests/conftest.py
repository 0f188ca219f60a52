"""What every test may use: one tiny checkpoint with seeded random weights, saved once a session."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

from model.checkpoints import save
from model.config import CheckpointConfig, SamplingDefaults, TransformerConfig, VAEConfig, from_preset
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from model.vae import VAE
from tests.jobs.postgres import postgres, postgres_database
from tests.jobs.receiver import receiver

__all__ = ["postgres", "postgres_database", "receiver"]  # fixtures of files of their own

torch.set_num_threads(1)
# A busy machine makes no example wrong. Hypothesis gives each 200 ms unless it is told otherwise.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

CAPTIONS = (
    "a red apple on a white background",
    "a blue circle",
    "two green apples",
    "a yellow star above a blue square",
    "the flag of Japan",
    "a small orange cat to the left of a large grey rocket",
)


os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="dalle-state-")  # no server of a test keeps jobs elsewhere


def randomise(module: nn.Module, seed: int) -> None:
    """Seeded weights of ordinary size everywhere, also where a fresh model starts at zero and so would ignore input.

    Biases too: left as they were made, they would depend on what other tests drew before.
    """
    generator, of_biases = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 1 / math.sqrt(parameter[0].numel()), generator=generator)
            elif name.endswith("bias"):
                parameter.uniform_(-0.05, 0.05, generator=of_biases)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a native checkpoint of the tiny presets. Shared by the session: copy it before you damage it."""
    config = CheckpointConfig(
        name="tiny",
        licence="Apache-2.0",
        vae=from_preset(VAEConfig, "tiny"),
        transformer=from_preset(TransformerConfig, "tiny", text_vocab=512),
        sampling=SamplingDefaults(temperature=0.9, top_k=200, guidance=2.0),
        provenance={"data": "none: random weights for tests"},
        created=1_700_000_000,
    )
    assert isinstance(config.vae, VAEConfig)
    assert isinstance(config.transformer, TransformerConfig)
    vae, transformer = VAE(config.vae), Transformer(config.transformer)
    randomise(vae, seed=1)
    randomise(transformer, seed=2)
    path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save(path, config, Tokenizer.train(CAPTIONS * 2, vocab_size=512), vae, transformer, dtype=torch.float32)
    return path
