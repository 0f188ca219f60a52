"""Tiny transformers that DALLE-pytorch itself made, with what it computed; see tests/data/families/dalle_pytorch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.families.dalle_pytorch.transformer import DallePytorchTransformer
from model.importing.dalle_pytorch import read_transformer, version_of
from model.importing.files import Part
from model.importing.state import Keys

DATA = Path(__file__).parents[2] / "data" / "families" / "dalle_pytorch"
NAMES = sorted(path.stem for path in DATA.glob("*.npz"))


@dataclass(frozen=True)
class Original:
    """content: as its .pt has it, without an image tokenizer. The rest is what the package computed, float32.

    text_ids (b, 5), image_ids (b, 16); text_logits (b, 5, text columns), image_logits (b, 16, codes); greedy (16,).
    """

    content: dict[str, Any]
    text_ids: Tensor
    image_ids: Tensor
    text_logits: Tensor
    image_logits: Tensor
    greedy: Tensor


def original(name: str) -> Original:
    """The file of that name."""
    with np.load(DATA / f"{name}.npz") as arrays:
        about = json.loads(str(arrays["about"]))
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "about"}
    content: dict[str, Any] = {"hparams": about["hparams"], "vae_params": None, "epoch": 3}
    if about["version"]:
        content["version"] = about["version"]
    content["weights"] = {
        key.removeprefix("weights/"): tensor.float() for key, tensor in tensors.items() if key.startswith("weights/")
    }
    return Original(
        content,
        tensors["text_ids"].long(),
        tensors["image_ids"].long(),
        tensors["text_logits"],
        tensors["image_logits"],
        tensors["greedy"][0].long(),
    )


def imported(content: dict[str, Any]) -> Part:
    """The transformer of such a content, read."""
    return read_transformer(content["hparams"], Keys(content["weights"], "dalle.pt"), version_of(content, "dalle.pt"))


def network(part: Part) -> DallePytorchTransformer:
    """The network with its weights, as a checkpoint of ours would load it."""
    with torch.device("meta"):
        model = DallePytorchTransformer(part.config)
    model.load_state_dict(dict(part.state), strict=True, assign=True)
    return model.eval()
