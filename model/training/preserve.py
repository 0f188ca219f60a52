"""Prior preservation: what a model drew before it is fine-tuned, learnt along with what is new.

A folder of twenty pictures says nothing of cats, and a model that learns from nothing else forgets them. So before the
first step the model that a run starts from draws some prompts itself, and a share of the samples are these drawings
(2208.12242, section 3.2, does it for one class).
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.checkpoints import Checkpoint
from model.errors import DalleError, DataError
from model.inference.engine import Engine
from model.inference.sequence import Failed, GenerationRequest, Painted, SamplingParams
from model.training.data import Pixels
from model.training.examples import MEASURED, Example, Examples
from model.vae import VAE

logger = logging.getLogger(__name__)


def draw(checkpoint: Checkpoint, prompts: Sequence[str], device: torch.device, seed: int) -> list[Example]:
    """A drawing of each prompt with the checkpoint's sampling defaults, as samples. The checkpoint is left as it was.

    Raises PromptTooLong, and DalleError if the model's output is not finite.
    """
    default = checkpoint.config.sampling
    params = SamplingParams(seed, **dataclasses.asdict(default))
    engine = Engine(copy.deepcopy(checkpoint), device=device)
    for at, prompt in enumerate(prompts):
        engine.add(GenerationRequest(str(at), tuple(engine.tokenizer.encode(prompt)), 1, params))
    tokens: dict[int, Any] = {}
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, Failed):
                raise DalleError(f"{prompts[int(event.request_id)]!r}: {event.message}")
            if isinstance(event, Painted):
                tokens[int(event.request_id)] = np.frombuffer(event.tokens, dtype="<i2").astype(np.int64)
                if len(tokens) % 32 == 0:
                    logger.info("drew %d of %d prompts to preserve", len(tokens), len(prompts))
    return [Example([(1.0, prompt)], tokens[at]) for at, prompt in enumerate(prompts)]


def draw_once(
    checkpoint: Checkpoint, prompts: Sequence[str], device: torch.device, seed: int, path: Path
) -> list[Example]:
    """`draw`, or what an earlier call left at `path`, an .npz. Raises also DataError, if that was of other prompts."""
    if path.exists():
        with np.load(path) as kept:
            texts, tokens = kept["prompts"].tolist(), kept["tokens"]
        if texts != list(prompts):
            raise DataError(f"{path}: drawn of {len(texts)} other prompts; a run goes on with what it began with")
        return [Example([(1.0, text)], image.astype(np.int64)) for text, image in zip(texts, tokens, strict=True)]
    found = draw(checkpoint, prompts, device, seed)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, prompts=np.array(prompts), tokens=np.stack([e.image for e in found]).astype(np.uint16))
    partial.replace(path)
    return found


@torch.no_grad()
def pictures_of(drawn: Sequence[Example], vae: VAE) -> list[tuple[str, Pixels]]:
    """Each of these drawings, with what it was drawn for: (256, 256, 3) RGB."""
    grid, device = vae.config.grid, next(vae.parameters()).device
    found: list[tuple[str, Pixels]] = []
    for example in drawn:
        pixels = vae.decode(torch.from_numpy(example.image).view(1, grid, grid).to(device))[0]
        array = (pixels.permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy()
        found.append((example.captions[0][1], array))
    return found


class PreservingExamples:
    """Other examples, among which a share are those to preserve."""

    def __init__(self, others: Examples, preserved: Sequence[Example], share: float) -> None:
        self.others, self.preserved, self.share = others, preserved, share

    def draw(self, step: int, place: int, random: np.random.Generator, mirror: float) -> Example:
        """See `Examples`. What is preserved is not mirrored."""
        if random.random() < self.share:
            return self.preserved[int(random.integers(len(self.preserved)))]
        return self.others.draw(step, place, random, mirror)

    def held_out(self, most: int = MEASURED) -> Iterator[Example]:
        """See `Examples`: the others'."""
        return self.others.held_out(most)

    def captions(self) -> Iterator[str]:
        """See `Examples`: the others'."""
        return self.others.captions()

    def position(self, step: int) -> dict[str, Any]:
        """See `Examples`: the others'."""
        return self.others.position(step)
