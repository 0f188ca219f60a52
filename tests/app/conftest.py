"""A checkpoint that paints a picture of 64 x 64 in milliseconds, and one server over it for the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoints import save
from model.clip import Clip
from model.config import CheckpointConfig, SamplingDefaults, clip_config, transformer_config, vae_config
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from model.vae import VAE
from tests.app.live import Live
from tests.conftest import CAPTIONS, randomise

LEVELS = (4, 4)
SIZE = 64


@pytest.fixture(scope="session")
def quick_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a checkpoint of 8 x 8 tokens of 16 codes, with a CLIP. Shared: copy it before you damage it."""
    judge = clip_config("tiny", text_vocab=512, grid=8, levels=LEVELS)
    config = CheckpointConfig(
        name="quick",
        licence="Apache-2.0",
        vae=vae_config("tiny", image_size=SIZE, levels=LEVELS),
        transformer=transformer_config("tiny", text_vocab=512, image_vocab=16, code_levels=LEVELS, grid=8, depth=1),
        sampling=SamplingDefaults(temperature=0.9, guidance=2.0),
        clip=judge,
    )
    vae, transformer, clip = VAE(config.vae), Transformer(config.transformer), Clip(judge)
    for seed, module in enumerate((vae, transformer, clip), 1):
        randomise(module, seed)
    path = tmp_path_factory.mktemp("checkpoints") / "quick"
    tokenizer = Tokenizer.train(CAPTIONS * 2, vocab_size=512)
    save(path, config, tokenizer, vae, transformer, dtype=torch.float32, clip=clip)
    return path


@pytest.fixture(scope="session")
def live(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A ready server that no test ends or damages."""
    with Live(quick_checkpoint, tmp_path_factory.mktemp("live") / "log") as server:
        yield server.ready()


@pytest.fixture
def start(quick_checkpoint: Path, tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """start(weights=None, **options of Live): servers of this test's own, ended after it."""
    servers: list[Live] = []

    def begin(weights: Path | None = None, **options: Any) -> Live:
        server = Live(weights or quick_checkpoint, tmp_path / f"log-{len(servers)}", **options)
        servers.append(server)
        return server

    yield begin
    for server in servers:
        server.__exit__(None, None, None)
