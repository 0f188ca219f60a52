"""A checkpoint with two styles, and a reviser that has learnt by heart what is asked of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from model.checkpoints import Checkpoint, load, save
from model.config import Style
from model.styles import Styles
from tests.revising import CIRCLE, KITTEN, learnt

CAT, APPLE, MINE = "a cat", "a red apple", "a cat in 3d, please"
POLITE = "a cat, please"  # what is left of MINE without the style
PAIRS = ((KITTEN, CAT), (CAT, CAT), (APPLE, APPLE), (CIRCLE, CIRCLE), (POLITE, CAT))
STYLES = Styles((Style("flat"), Style("3d", "3d", "things-3d.txt")), (None, ("cat", "red apple")))


def styled_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with STYLES and a reviser of PAIRS. A circle is known in the first style only."""
    reviser = learnt(checkpoint.own().tokenizer, PAIRS)
    config = dataclasses.replace(checkpoint.config, reviser=reviser.config, styles=STYLES.styles)
    return dataclasses.replace(checkpoint, config=config, reviser=reviser, styles=STYLES)


def with_styles(weights: Path, path: Path) -> Path:
    """The checkpoint in `weights`, as `styled_checkpoint` makes it, in the folder `path`."""
    made = styled_checkpoint(load(weights))
    save(
        path, made.config, made.tokenizer, made.vae, made.transformer, torch.float32, clip=made.clip,
        reviser=made.reviser, styles=made.styles,
    )  # fmt: skip
    return path
