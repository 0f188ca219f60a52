"""A tiny text-to-image model that LlamaGen's own code and transformers made; see tests/data/families/llamagen."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.families.llamagen.originals import DATA

SPIECE = DATA.parent / "text" / "spiece.model"
SCALE = 3.0  # of the guided tokens
LENGTHS = (8, 4, 12)  # of the texts, with </s>
GRID, HEADS = 8, "2"
CONFIG = {  # of transformers, beside the encoder; its largest distance is not the usual one
    "model_type": "t5", "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 3,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
    "feed_forward_proj": "gated-gelu", "layer_norm_epsilon": 1e-06,
}  # fmt: skip


@cache
def _held() -> dict[str, Any]:
    return dict(np.load(DATA / "t2i.npz"))


def prompts() -> list[str]:
    return [str(text) for text in _held()["prompts"]]


def arrays() -> dict[str, Tensor]:
    """What the original computed."""
    return {key: torch.from_numpy(value) for key, value in _held().items() if "/" not in key and key != "prompts"}


def state(of: str, **changes: Tensor) -> dict[str, Tensor]:
    """The original's tensors, of "t2i" or "t5". An empty change takes one out."""
    whole = {key.split("/", 1)[1]: torch.from_numpy(v) for key, v in _held().items() if key.startswith(f"{of}/")}
    return {key: tensor for key, tensor in {**whole, **changes}.items() if tensor.numel()}


def transformer_file(**changes: Tensor) -> dict[str, Any]:
    """As LlamaGen publishes it."""
    return {"model": state("t2i", **changes)}


def encoder_files(**changes: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """As Hugging Face has a T5: two files, with a decoder and a head that nobody may read."""
    more = dict.fromkeys(
        ("decoder.block.0.layer.0.SelfAttention.q.weight", "lm_head.weight"), torch.full((3, 3), torch.nan)
    )
    whole = sorted({**state("t5"), **more, **changes}.items())
    kept = [(key, tensor) for key, tensor in whole if tensor.numel()]
    return dict(kept[:9]), dict(kept[9:])


def written(folder: Path, **changes: dict[str, Tensor]) -> list[Path]:
    """The model's files but the VQ's, in an odd order and under odd names. changes: of "t2i" and "t5"."""
    first, second = encoder_files(**changes.get("t5", {}))
    torch.save(first, folder / "c")
    torch.save(second, folder / "a")
    torch.save(transformer_file(**changes.get("t2i", {})), folder / "b")
    (folder / "d").write_bytes(SPIECE.read_bytes())
    (folder / "e").write_text(json.dumps(CONFIG))
    return [folder / name for name in "abcde"]
