"""A reviser that has learnt a few prompts by heart, in a second."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from model.checkpoints import Checkpoint, load, save
from model.config import ReviserConfig, from_preset
from model.reviser import Reviser
from model.tokenizer import Tokenizer
from model.training.revision import Prompts
from model.training.train_reviser import Batches, losses

KITTEN, CIRCLE = "a cute kitten reading in the rain", "a blue circle"
PAIRS = ((KITTEN, "a small orange cat"), (CIRCLE, CIRCLE), ("a red apple", "a red apple"))


_known: dict[tuple[bytes, tuple[tuple[str, str], ...]], Reviser] = {}  # by their tokenizers and pairs


def learnt(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]] = PAIRS) -> Reviser:
    name = (tokenizer.to_bytes(), tuple(pairs))
    if name not in _known:
        _known[name] = _learn(tokenizer, pairs)
    return copy.deepcopy(_known[name])


def _learn(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> Reviser:
    config = from_preset(ReviserConfig, "tiny", text_vocab=tokenizer.vocab_size)
    torch.manual_seed(0)
    model = Reviser(config)
    batch = Batches(Prompts([], []), tokenizer, config, seed=0).of(pairs)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        loss = losses(model, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.05
    return model.eval()


def keep(checkpoint: Checkpoint, reviser: Reviser, path: Path) -> None:
    config = dataclasses.replace(checkpoint.config, reviser=reviser.config)
    parts = (config, checkpoint.tokenizer, checkpoint.vae, checkpoint.transformer)
    save(path, *parts, torch.float32, clip=checkpoint.clip, reviser=reviser)


def with_reviser(weights: Path, path: Path) -> Path:
    """The checkpoint in `weights` with a reviser of PAIRS, as the folder `path`."""
    checkpoint = load(weights)
    keep(checkpoint, learnt(checkpoint.own().tokenizer), path)
    return path
