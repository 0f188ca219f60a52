"""Reads ruDALL-E's weights, a plain state dict, with youtokentome's bpe.model beside it.

Heads are not in the file: they are known by the width of the public models, else said by --set heads=N. Which of the
two formats it is, v2 or v3, is told by conv_mask where the file has its masks, else by --set hf_version=v2 or v3. The
masks are compared with those of ours and left out. Facts: rudalle/dalle of rudalle 1.1.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.config import SamplingDefaults
from model.errors import CheckpointError
from model.families.rudalle.config import COLUMN, CONV, ROW, V2, V3, RuDalleConfig
from model.families.rudalle.masks import mask, sees
from model.families.text.youtokentome import YouTokenToMe
from model.importing import image
from model.importing.files import Given, Imported, Part, Weights
from model.importing.numbers import depth, heads, matrix
from model.importing.state import Keys, state_dict
from model.limits import build, shown

ROLE = "rudalle"
HEADS = {768: 12, 2048: 16, 3840: 60}  # by width: dummy, Malevich and those made of it, Kandinsky
MAX_GRID = 64  # as the config has it; masks grow with its fourth power
SAMPLING = SamplingDefaults(temperature=1.0, top_k=2048, top_p=0.995, guidance=1.0)  # of its README

_MARKS = ("text_pos_embeddings.weight", "image_row_embeddings.weight", "image_col_embeddings.weight")
_MASKS = {"transformer.row_mask": ROW, "transformer.col_mask": COLUMN, "transformer.conv_mask": CONV}
# Ours -> theirs, within a layer.
_NORMS = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}
_SANDWICH = {"after1": "before_first_addition_layernorm", "after2": "before_second_addition_layernorm"}


def roles(content: Any) -> str | None:
    """The role of ruDALL-E's weights; None for anything else. A file that lacks a key or two is told too."""
    return ROLE if isinstance(content, dict) and sum(key in content for key in _MARKS) >= 2 else None


def read(given: Given) -> Imported:
    """The whole model, from its three files. Raises CheckpointError naming what is missing, unknown or wrong."""
    weights, text = given.weight(ROLE), given.text("youtokentome")
    if weights is None:
        raise CheckpointError("the weights of ruDALL-E must be given")
    part = read_transformer(weights, given.setting("heads"), given.setting("hf_version"))
    config = part.config
    if text is None:
        raise CheckpointError(
            f"{weights.path}: a model of ruDALL-E must have its tokenizer beside it: give bpe.model too"
        )
    tokenizer = YouTokenToMe.read(text.content, str(text.path), config.text_tokens)
    if tokenizer.vocab_size > config.text_vocab:
        message = f"the tokenizer must have at most {config.text_vocab} ids, as text_embeddings has without padding"
        raise CheckpointError(f"{text.path}: {message}, got {tokenizer.vocab_size}")
    vae = image.read_vae(given, config.grid)
    image.check_codes(vae, config.image_vocab, "image_embeddings")
    facts = {
        "layers": str(config.depth),
        "width": str(config.dim),
        "heads": str(config.heads),
        "hf_version": config.version,
    }
    return Imported("rudalle", "ruDALL-E", vae, part, tokenizer, SAMPLING, facts=facts)


def read_transformer(weights: Weights, said_heads: str | None, version: str | None) -> Part:
    """The network. said_heads, version: what --set heads and --set hf_version say.

    Raises CheckpointError naming what is missing, unknown, of a wrong shape, or must be said.
    """
    keys = Keys(state_dict(weights.content, str(weights.path)), str(weights.path))
    config = _config(keys, said_heads, version)
    state = {**_ends(keys, config)}
    for i in range(config.depth):
        state |= _layer(keys, i, config)
    for key in _MASKS:
        if key in keys:
            keys.take_buffer(key)  # compared in `_version`
    keys.finish()
    return Part(config, state)


def _config(keys: Keys, said_heads: str | None, version: str | None) -> RuDalleConfig:
    rows, dim = matrix(keys, "text_embeddings.weight")
    places, _ = matrix(keys, "text_pos_embeddings.weight")  # one more than v3 uses
    grid, _ = matrix(keys, "image_row_embeddings.weight")
    codes, _ = matrix(keys, "image_embeddings.weight")
    text = places - 1
    if rows <= text:
        message = f"text_embeddings.weight must have a row for each of {text} paddings and more, got {rows} rows"
        raise CheckpointError(f"{keys.where}: {message}")
    if grid > MAX_GRID:
        message = f"image_row_embeddings.weight must have at most {MAX_GRID} rows, one a row of the picture, got {grid}"
        raise CheckpointError(f"{keys.where}: {message}")
    values = {
        "text_vocab": rows - text,
        "image_vocab": codes,
        "dim": dim,
        "depth": depth(keys, "transformer.layers."),
        "heads": heads(keys, dim, HEADS, said_heads),
        "version": _version(keys, version, text, grid),
        "text_tokens": text - 2,
        "grid": grid,
        "sandwich": any(f".{name}." in key for key in keys.names("transformer.layers.") for name in _SANDWICH.values()),
    }
    return build(RuDalleConfig, values, keys.where)


def _version(keys: Keys, said: str | None, text: int, grid: int) -> str:
    """ "v2" or "v3", as the file's masks tell or --set says. Masks that are neither's are refused."""
    if said is not None and said not in (V2, V3):
        raise CheckpointError(f"--set hf_version must be {V2} or {V3}, got {shown(said)}")
    fitting = [version for version in (V2, V3) if all(_fits(keys, key, text, grid, version) for key in _MASKS)]
    if not fitting:
        wrong = next(key for key in _MASKS if not any(_fits(keys, key, text, grid, version) for version in (V2, V3)))
        raise CheckpointError(f"{keys.where}: {wrong} must be the mask that rudalle makes for these sizes, and differs")
    if said is None and len(fitting) > 1:
        message = f"whether it is {V2} or {V3} cannot be told, as it has no conv_mask: --set hf_version={V3}, say"
        raise CheckpointError(f"{keys.where}: {message}")
    if said is not None and said not in fitting:
        message = f"hf_version is {fitting[0]}, as transformer.conv_mask tells, and --set says {said}"
        raise CheckpointError(f"{keys.where}: {message}")
    return said or fitting[0]


def _fits(keys: Keys, key: str, text: int, grid: int, version: str) -> bool:
    """Whether the file has no such mask, or that of this version."""
    if key not in keys:
        return True
    found, n = keys.peek(key), text + grid * grid
    if tuple(found.shape) != (n, n):
        raise CheckpointError(f"{keys.where}: {key} must have the shape {(n, n)}, got {tuple(found.shape)}")
    return torch.equal(found != 0, mask(sees(_MASKS[key], grid, version), text))


def _ends(keys: Keys, config: RuDalleConfig) -> dict[str, Tensor]:
    """Everything but the layers."""
    dim, text, codes = config.dim, config.text_columns, config.image_vocab
    weight = keys.take("to_logits.1.weight", (text + codes, dim))
    bias = keys.take("to_logits.1.bias", (text + codes,))
    return {
        "text_table.weight": keys.take("text_embeddings.weight", (text, dim)),
        "image_table.weight": keys.take("image_embeddings.weight", (codes, dim)),
        "text_places": keys.take("text_pos_embeddings.weight", (config.max_ids + 1, dim)),
        "row_places": keys.take("image_row_embeddings.weight", (config.grid, dim)),
        "column_places": keys.take("image_col_embeddings.weight", (config.grid, dim)),
        **_pair(keys, "norm1", "transformer.final_layernorm", (dim,)),
        **_pair(keys, "norm2", "to_logits.0", (dim,)),
        "text_head.weight": weight[:text],
        "text_head.bias": bias[:text],
        "image_head.weight": weight[text:],
        "image_head.bias": bias[text:],
    }


def _layer(keys: Keys, number: int, config: RuDalleConfig) -> dict[str, Tensor]:
    ours, theirs, dim = f"layers.{number}", f"transformer.layers.{number}", config.dim
    state: dict[str, Tensor] = {}
    for a, b in {**_NORMS, **(_SANDWICH if config.sandwich else {})}.items():
        state |= _pair(keys, f"{ours}.{a}", f"{theirs}.{b}", (dim,))
    state |= _pair(keys, f"{ours}.attention.qkv", f"{theirs}.attention.query_key_value", (3 * dim, dim))
    state |= _pair(keys, f"{ours}.attention.out", f"{theirs}.attention.dense", (dim, dim))
    state |= _pair(keys, f"{ours}.w1", f"{theirs}.mlp.dense_h_to_4h", (4 * dim, dim))
    state |= _pair(keys, f"{ours}.w2", f"{theirs}.mlp.dense_4h_to_h", (dim, 4 * dim))
    return state


def _pair(keys: Keys, ours: str, theirs: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """A weight of this shape, and its bias."""
    return {
        f"{ours}.weight": keys.take(f"{theirs}.weight", shape),
        f"{ours}.bias": keys.take(f"{theirs}.bias", shape[:1]),
    }
