"""Reads the encoder of a T5 with gated feed-forwards, such as FLAN-T5-XL, from the files that Hugging Face has of it.

They are safetensors or pytorch_model.bin, in one file or several. The decoder and the head, decoder.* and lm_head.*,
are left out. The tensors tell all but the largest distance and the epsilon of the norms, which config.json may say.
Facts: transformers/models/t5 of github.com/huggingface/transformers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from model.errors import CheckpointError
from model.families.llamagen.config import T5Config
from model.families.llamagen.t5 import EPS
from model.families.text.t5 import T5Tokenizer
from model.importing.files import Given, Part, Text, Weights
from model.importing.numbers import depth, matrix
from model.importing.state import Keys, state_dict
from model.limits import build, shown

ROLE = "t5"
_LAYER = re.compile(r"(encoder|decoder)\.block\.\d{1,9}\.layer\.\d\.")
_TABLES = ("shared.weight", "encoder.embed_tokens.weight")  # the same; a file has one of them, or both
_DISTANCES = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_NORMS = {"norm1": "layer.0.layer_norm", "norm2": "layer.1.layer_norm"}
_LINEARS = {
    "q": "layer.0.SelfAttention.q",
    "k": "layer.0.SelfAttention.k",
    "v": "layer.0.SelfAttention.v",
    "out": "layer.0.SelfAttention.o",
    "gate": "layer.1.DenseReluDense.wi_0",
    "passed": "layer.1.DenseReluDense.wi_1",
    "down": "layer.1.DenseReluDense.wo",
}


def roles(content: Any) -> str | None:
    """The role of a file of T5's, whichever of its tensors it has; None for anything else."""
    if not isinstance(content, dict):
        return None
    keys = (key for key in content if isinstance(key, str))
    return ROLE if any(key == _TABLES[0] or _LAYER.match(key) for key in keys) else None


def read_encoder(given: Given) -> Part | None:
    """The encoder; None where no file is of a T5.

    Raises CheckpointError naming the file, and what in it is missing, unknown, of a wrong shape or not finite.
    """
    files, listed = given.weights_of(ROLE), given.text("shard list")
    if not files:
        return None
    keys = _Shards(files)
    for key, name in (listed.content if listed else {}).items():
        if key not in keys:
            raise CheckpointError(f"{listed.path}: {shown(key)} is in {shown(name)}: give that file too")  # type: ignore[union-attr]
    for prefix in ("decoder.", "lm_head."):
        keys.drop(prefix)
    config = _config(keys, given.text("t5 config"))
    inner = config.heads * config.head_dim
    state: dict[str, Tensor] = {
        "table.weight": keys.take(_table(keys), (config.vocab, config.dim)),
        "distances.weight": keys.take(_DISTANCES, (config.buckets, config.heads)),
        "norm.weight": keys.take("encoder.final_layer_norm.weight", (config.dim,)),
    }
    shapes = {
        **dict.fromkeys(("q", "k", "v"), (inner, config.dim)),
        **dict.fromkeys(("gate", "passed"), (config.hidden, config.dim)),
        "out": (config.dim, inner),
        "down": (config.dim, config.hidden),
    }
    for i in range(config.depth):
        for ours, theirs in _NORMS.items():
            state[f"layers.{i}.{ours}.weight"] = keys.take(f"encoder.block.{i}.{theirs}.weight", (config.dim,))
        for ours, theirs in _LINEARS.items():
            state[f"layers.{i}.{ours}.weight"] = keys.take(f"encoder.block.{i}.{theirs}.weight", shapes[ours])
    for key in _TABLES:
        keys.drop(key)
    keys.finish()
    return Part(config, state)


def read_tokenizer(given: Given, encoder: Part, max_tokens: int) -> T5Tokenizer | None:
    """The tokenizer of the encoder; None where no file has it. Raises CheckpointError naming what in it is wrong."""
    model, values = given.text("sentencepiece"), given.text("tokenizer json")
    if model is not None and values is not None:
        raise CheckpointError(f"{values.path}: a second tokenizer; {model.path} is one too: leave one of them out")
    text = model or values
    if text is None:
        return None
    read = T5Tokenizer.read if model is not None else T5Tokenizer.of
    tokenizer = read(text.content, str(text.path), max_tokens)
    rows = encoder.config.vocab
    if tokenizer.vocab_size > rows:
        message = f"the tokenizer must have at most {rows} ids, as the encoder's table has, got {tokenizer.vocab_size}"
        raise CheckpointError(f"{text.path}: {message}")
    return tokenizer


class _Shards(Keys):
    """The state dicts of several files, as one. A refusal names the file that has the key."""

    def __init__(self, files: Sequence[Weights]) -> None:
        self._file_of: dict[str, str] = {}
        whole: dict[str, Tensor] = {}
        for file in files:
            where = str(file.path)
            for key, tensor in state_dict(file.content, where).items():
                if key in whole:
                    raise CheckpointError(f"{where}: {shown(key)} is in {self._file_of[key]} too")
                whole[key], self._file_of[key] = tensor, where
        super().__init__(whole, str(files[0].path))
        self._first = self.where

    def finish(self) -> None:
        self.where = self._file_of.get(next(iter(self._left), ""), self._first)
        super().finish()

    def _found(self, key: str) -> Tensor:
        self.where = self._file_of.get(key, self._first)
        if key not in self:
            told = f"the key {shown(key)} is missing, and so is a file of the encoder, if it has several"
            raise CheckpointError(f"{self.where}: {told}")
        return super()._found(key)


def _table(keys: Keys) -> str:
    return next((key for key in _TABLES if key in keys), _TABLES[0])


def _config(keys: Keys, said: Text | None) -> T5Config:
    key = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
    if key not in keys and key.replace("wi_0", "wi") in keys:
        raise CheckpointError(f"{keys.where}: feed-forwards must be gated, as those of T5 1.1 and FLAN-T5 are")
    vocab, dim = matrix(keys, _table(keys))
    count, heads = matrix(keys, _DISTANCES)
    inner, _ = matrix(keys, "encoder.block.0.layer.0.SelfAttention.q.weight")
    if not heads or inner % heads:
        raise CheckpointError(f"{keys.where}: the width of all heads must be a multiple of {heads} heads, got {inner}")
    values = {
        "vocab": vocab,
        "dim": dim,
        "depth": depth(keys, "encoder.block."),
        "heads": heads,
        "head_dim": inner // heads,
        "hidden": matrix(keys, key)[0],
        "buckets": count,
    }
    if said is not None:
        values["distance"] = _compare(said, values)
    return build(T5Config, values, keys.where)


def _compare(said: Text, found: dict[str, int]) -> Any:
    """Raises CheckpointError where config.json says other than the tensors, or what is not computed here.

    Returns the largest distance.
    """
    names = {
        "d_model": "dim", "num_layers": "depth", "num_heads": "heads", "d_kv": "head_dim", "d_ff": "hidden",
        "relative_attention_num_buckets": "buckets",
    }  # fmt: skip
    wanted: dict[str, Any] = {theirs: found[ours] for theirs, ours in names.items()}
    wanted |= {"feed_forward_proj": "gated-gelu", "layer_norm_epsilon": EPS}
    for key, value in wanted.items():
        if said.content.get(key, value) != value:
            raise CheckpointError(f"{said.path}: {key} must be {value}, got {shown(said.content[key])}")
    return said.content.get("relative_attention_max_distance", 128)
