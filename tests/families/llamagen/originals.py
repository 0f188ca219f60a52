"""A tiny transformer that LlamaGen's own code made, with what it computed; see tests/data/families/llamagen."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.families.image.originals import original

DATA = Path(__file__).parents[2] / "data" / "families" / "llamagen"
COMPUTED = ("text_ids", "image_ids", "logits", "greedy", "guided")
SCALE = 3.0  # of the guided tokens
SIDE = 32  # pixels of a picture of 8 x 8 image tokens


def arrays(name: str = "c2i") -> dict[str, Tensor]:
    return {key: torch.from_numpy(array) for key, array in np.load(DATA / f"{name}.npz").items()}


def state(**changes: Tensor) -> dict[str, Tensor]:
    """The original's tensors. An empty change takes one out."""
    whole = {**{key: tensor for key, tensor in arrays().items() if key not in COMPUTED}, **changes}
    return {key: tensor for key, tensor in whole.items() if tensor.numel()}


def published(**changes: Tensor) -> dict[str, Any]:
    """A file as LlamaGen publishes it."""
    return {"model": state(**changes)}


def trained() -> dict[str, Any]:
    """A file as train_c2i.py saves it."""
    args = argparse.Namespace(image_size=SIDE, downsample_size=4, gpt_model="GPT-B", num_classes=1000)
    optimizer = {"state": {}, "param_groups": [{"lr": 1e-4}]}
    return {**published(), "ema": state(), "optimizer": optimizer, "steps": 3, "args": args}


def vq() -> dict[str, Any]:
    """The file of an image tokenizer of as many codes."""
    return {"model": original("llamagen-vq").state}
