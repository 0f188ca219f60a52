"""Reads LlamaGen's weights, of classes or of texts: a state dict, bare or as "model", "module" or "state_dict".

What training files have beside it (optimizer, steps, ema) is left out. Heads are known by the width of the public
models, else said by --set heads=N. The picture's size is in the args of training files, else said by
--set image_size=N. The encoder of texts has files of its own (`model.importing.t5`). Facts: gpt.py of models, and
sample_c2i.py and sample_t2i.py, of github.com/FoundationVision/LlamaGen, commit ce98ec4.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from model.config import SamplingDefaults
from model.errors import CheckpointError
from model.families.llamagen.config import DecoderConfig, LlamaGenConfig, LlamaGenTextConfig
from model.families.llamagen.transformer import turns
from model.families.text.classes import IMAGENET, ClassNames, imagenet_names
from model.importing import image, t5
from model.importing.calls import Inert
from model.importing.files import Given, Imported, Part, Weights
from model.importing.numbers import depth, heads, matrix
from model.importing.state import Keys, state_dict
from model.limits import build, shown

ROLE = "llamagen"
# By width: GPT-B, L, XL, XXL, 1B, XXXL, 3B and 7B.
HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 2048: 32, 2560: 40, 3200: 32, 4096: 32}
SAMPLING = SamplingDefaults(temperature=1.0, top_k=2000, guidance=4.0)  # of sample_c2i.py
TEXT_SAMPLING = SamplingDefaults(temperature=1.0, top_k=1000, guidance=7.5)  # of sample_t2i.py

_PLACES = ("model", "module", "state_dict")  # of the state dict, in the order in which the original looks
_CLASSES = "cls_embedding.embedding_table.weight"
_CAPTION1, _CAPTION2 = "cls_embedding.cap_proj.fc1.weight", "cls_embedding.cap_proj.fc2.weight"
_NULL_CAPTION = "cls_embedding.uncond_embedding"
_MARKS = ("tok_embeddings.weight", "layers.0.attention.wqkv.weight", _CLASSES, _CAPTION1, _NULL_CAPTION)
_ANGLES = "freqs_cis"  # saved by some versions, and made anew by all
# Ours -> theirs, within a layer.
_LINEARS = {
    "qkv": "attention.wqkv",
    "out": "attention.wo",
    "gate": "feed_forward.w1",
    "passed": "feed_forward.w3",
    "down": "feed_forward.w2",
}
_TEXTS = "a text-to-image model of LlamaGen, whose texts FLAN-T5-XL reads first"
_NORMS = {"norm1": "attention_norm", "norm2": "ffn_norm"}


def roles(content: Any) -> str | None:
    """The role of LlamaGen's transformer or of a T5; None for anything else.

    A file that lacks a key or two is told too.
    """
    return ROLE if _place(content) is not None else t5.roles(content)


def read(given: Given) -> Imported:
    """The whole model, from its file and that of its VQ. Raises CheckpointError naming what is missing or wrong."""
    weights = given.weight(ROLE)
    if weights is None:
        told = "an encoder of texts, which paints nothing alone: give the weights of LlamaGen too"
        raise CheckpointError(f"{given.weights_of(t5.ROLE)[0].path}: {told}")
    trained = _trained_grid(weights)
    if trained is None and not given.says("image_size"):
        message = "the size of its pictures is not in the file: say it by --set image_size=256, 384 or 512"
        raise CheckpointError(f"{weights.path}: {message}")
    said = given.setting("heads")
    vae = image.read_vae(given, trained)
    if trained not in (None, vae.config.grid):
        message = f"it was trained on {trained} image tokens a side, as its args say, and"
        raise CheckpointError(
            f"{weights.path}: {message} {vae.config.image_size} pixels are {vae.config.grid} of this image tokenizer's"
        )
    encoder = _encoder(given, weights)
    part = read_transformer(weights, said, vae.config.grid, encoder)
    config = part.config
    image.check_codes(vae, config.image_vocab, "tok_embeddings")
    facts = {"layers": str(config.depth), "width": str(config.dim), "heads": str(config.heads)}
    if encoder is None:
        facts["classes"] = str(config.classes)
        names = ClassNames(config.classes, imagenet_names() if config.classes == IMAGENET else ())
        return Imported("LlamaGen", "LlamaGen", vae, part, names, SAMPLING, facts=facts)
    facts["text encoder"] = f"T5, {encoder.config.depth} layers of {encoder.config.dim}, {encoder.config.heads} heads"
    tokenizer = t5.read_tokenizer(given, encoder, config.text_tokens)
    if tokenizer is None:
        raise CheckpointError(f"{weights.path}: {_TEXTS}: give its spiece.model or tokenizer.json too")
    return Imported("LlamaGen", "LlamaGen", vae, part, tokenizer, TEXT_SAMPLING, facts=facts)


def read_transformer(weights: Weights, said_heads: str | None, grid: int, encoder: Part | None = None) -> Part:
    """The network. said_heads: what --set heads says. grid: image tokens a side. encoder: of texts, None for classes.

    Raises CheckpointError naming what is missing, unknown, of a wrong shape, or must be said.
    """
    where = str(weights.path)
    keys = Keys(state_dict(_place(weights.content), where), where)
    config = _config(keys, said_heads, grid, encoder)
    dim, codes = config.dim, config.image_vocab
    state: dict[str, Tensor] = {
        **_prompt(keys, config, encoder),
        "table.weight": keys.take("tok_embeddings.weight", (codes, dim)),
        "norm.weight": keys.take("norm.weight", (dim,)),
        "image_head.weight": keys.take("output.weight", (codes, dim)),
    }
    shapes = {
        "qkv": (3 * dim, dim),
        "out": (dim, dim),
        "gate": (config.hidden, dim),
        "passed": (config.hidden, dim),
        "down": (dim, config.hidden),
    }
    for i in range(config.depth):
        of = f"layers.{i}"
        for ours, theirs in _NORMS.items():
            state[f"{of}.{ours}.weight"] = keys.take(f"{of}.{theirs}.weight", (dim,))
        for ours, theirs in _LINEARS.items():
            state[f"{of}.{ours}.weight"] = keys.take(f"{of}.{theirs}.weight", shapes[ours])
    if _ANGLES in keys:
        _check_angles(keys, config)
    keys.finish()
    return Part(config, state)


def _encoder(given: Given, weights: Weights) -> Part | None:
    """The encoder of the texts that this model paints; None where it paints classes."""
    state = _place(weights.content) or {}
    if _CLASSES in state or not {_CAPTION1, _NULL_CAPTION} & state.keys():
        return None
    encoder = t5.read_encoder(given)
    if encoder is None:
        raise CheckpointError(f"{weights.path}: {_TEXTS}: give the files of FLAN-T5-XL too")
    return encoder


def _prompt(keys: Keys, config: LlamaGenConfig | LlamaGenTextConfig, encoder: Part | None) -> dict[str, Tensor]:
    """What reads the prompt: the table of classes, or the encoder and what makes positions of its vectors."""
    if isinstance(config, LlamaGenConfig) or encoder is None:
        return {"classes.weight": keys.take(_CLASSES, (config.text_vocab, config.dim))}
    width = config.encoder.dim
    return {
        **{f"encoder.{key}": tensor for key, tensor in encoder.state.items()},
        "null_caption": keys.take(_NULL_CAPTION, (config.max_text, width)),
        "caption1.weight": keys.take(_CAPTION1, (config.dim, width)),
        "caption2.weight": keys.take(_CAPTION2, (config.dim, config.dim)),
    }


def _place(content: Any) -> dict[Any, Any] | None:
    """The state dict in a file's content, not looked through."""
    if not isinstance(content, dict):
        return None
    for state in (*(content.get(place) for place in _PLACES), content):
        if isinstance(state, dict) and sum(key in state for key in _MARKS) >= 2:
            return state
    return None


def _trained_grid(weights: Weights) -> int | None:
    """Image tokens a side, by the args of a training file; None where it has none."""
    args = weights.content.get("args") if isinstance(weights.content, dict) else None
    said = args.state if isinstance(args, Inert) and isinstance(args.state, dict) else {}
    size, factor = said.get("image_size"), said.get("downsample_size")
    if not (isinstance(size, int) and isinstance(factor, int) and 1 <= factor <= size <= 4096):
        return None
    return size // factor


def _config(keys: Keys, said_heads: str | None, grid: int, encoder: Part | None) -> LlamaGenConfig | LlamaGenTextConfig:
    rows, dim = matrix(keys, _CLASSES if encoder is None else "tok_embeddings.weight")
    values: dict[str, Any] = {
        "image_vocab": matrix(keys, "tok_embeddings.weight")[0],
        "dim": dim,
        "depth": depth(keys, "layers."),
        "heads": heads(keys, dim, HEADS, said_heads),
        "hidden": matrix(keys, "layers.0.feed_forward.w1.weight")[0],
        "grid": grid,
    }
    if encoder is None:
        return build(LlamaGenConfig, {**values, "classes": rows - 1}, keys.where)  # the last row stands for no class
    places, width = matrix(keys, _NULL_CAPTION)
    if width != encoder.config.dim:
        told = (
            f"{shown(_NULL_CAPTION)} is for an encoder {width} wide, and that of the T5 given is {encoder.config.dim}"
        )
        raise CheckpointError(f"{keys.where}: {told}")
    values |= {"text_tokens": places - 1, "encoder": dataclasses.asdict(encoder.config)}
    return build(LlamaGenTextConfig, values, keys.where)


def _check_angles(keys: Keys, config: DecoderConfig) -> None:
    """Take the table of positions, if it is the one that is made here."""
    found, want = keys.take_buffer(_ANGLES), torch.stack(turns(config), dim=-1)
    if found.shape != want.shape or not torch.allclose(found.float(), want, atol=0.01):
        message = f"{_ANGLES} must be the cosines and sines of {config.grid} x {config.grid} image tokens, and differs"
        raise CheckpointError(f"{keys.where}: {message}")
