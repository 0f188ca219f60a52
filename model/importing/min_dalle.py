"""Reads min-dalle's encoder.pt, decoder.pt, vocab.json and merges.txt: state dicts, and a BPE's tokens and pairs.

Of the decoder's tables the rows after the last code are left out: they can neither be fed nor drawn. Heads are not in
the files: they are known by the width of mini and mega, else said by --set heads=N. Facts:
min_dalle/models/dalle_bart_encoder.py, dalle_bart_decoder.py and min_dalle.py of min-dalle 0.4.11.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from model.config import SamplingDefaults
from model.errors import CheckpointError
from model.families.min_dalle.config import MinDalleConfig
from model.families.text.min_dalle import MinDalleTokenizer
from model.importing import image
from model.importing.files import Given, Imported, Part, Weights
from model.importing.numbers import depth, heads, matrix, square_side
from model.importing.state import Keys, state_dict
from model.limits import build

ENCODER, DECODER = "min-dalle encoder", "min-dalle decoder"
HEADS = {1024: 16, 2048: 32}  # by width: mini, mega
CODES = 2**14  # of the image tokenizer; the last one is the decoder's start token too
SAMPLING = SamplingDefaults(temperature=1.0, top_k=256, guidance=16.0)  # of MinDalle.generate_image

_MARKS = ("embed_tokens.weight", "embed_positions.weight", "layernorm_embedding.weight", "final_ln.weight")
# Ours -> theirs, within a layer; each is a norm's weight and bias.
_ENCODER_NORMS = {
    "before": "pre_self_attn_layer_norm",
    "after": "self_attn_layer_norm",
}
_DECODER_NORMS = {
    **_ENCODER_NORMS,
    "before_text": "pre_encoder_attn_layer_norm",
    "after_text": "encoder_attn_layer_norm",
}
_ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}


def roles(content: Any) -> str | None:
    """The encoder's or the decoder's role; None for anything else. A file that lacks a key or two is told too."""
    if not isinstance(content, dict) or sum(key in content for key in _MARKS) < 2:
        return None
    crossed = any(isinstance(key, str) and ".encoder_attn." in key for key in content)
    return DECODER if crossed or "lm_head.weight" in content else ENCODER


def read(given: Given) -> Imported:
    """The whole model, from its five files. Raises CheckpointError naming what is missing, unknown or wrong."""
    part = read_transformer(given.weight(ENCODER), given.weight(DECODER), given.setting("heads"))
    vocabulary, merges = given.text("vocab json"), given.text("merges")
    if vocabulary is None or merges is None:
        missing = "vocab.json" if vocabulary is None else "merges.txt"
        raise CheckpointError(
            f"the tokenizer of min-dalle is in vocab.json and merges.txt: {missing} must be given too"
        )
    config = part.config
    tokenizer = MinDalleTokenizer.read(
        vocabulary.content, merges.content, str(vocabulary.path), str(merges.path), config.text_tokens
    )
    if tokenizer.vocab_size > config.text_vocab:
        message = f"must have at most {config.text_vocab} ids, one a row of the encoder's table"
        raise CheckpointError(f"{vocabulary.path}: the tokenizer {message}, got {tokenizer.vocab_size}")
    vae = image.read_vae(given, config.grid)
    if vae.config.codes < config.image_vocab:
        message = f"must have {config.image_vocab} codes, as the decoder draws, got {vae.config.codes}"
        raise CheckpointError(f"the image tokenizer {message}")
    facts = {"layers": f"{config.depth} and {config.depth}", "width": str(config.dim), "heads": str(config.heads)}
    return Imported("min-dalle", "min-dalle", vae, part, tokenizer, SAMPLING, facts=facts)


def read_transformer(encoder: Weights | None, decoder: Weights | None, said_heads: str | None) -> Part:
    """The two halves of a model. said_heads: what --set heads says.

    Raises CheckpointError naming what is missing, unknown, of a wrong shape, or must be said.
    """
    if encoder is None or decoder is None:
        here, missing = (decoder, "encoder.pt") if encoder is None else (encoder, "decoder.pt")
        where = f"{here.path}: " if here is not None else ""
        raise CheckpointError(f"{where}a model of min-dalle is in two files, and {missing} must be given too")
    first = Keys(state_dict(encoder.content, str(encoder.path)), str(encoder.path))
    second = Keys(state_dict(decoder.content, str(decoder.path)), str(decoder.path))
    config = _config(first, second, said_heads)
    state = {
        **{f"encoder.{name}": tensor for name, tensor in _encoder(first, config).items()},
        **{f"decoder.{name}": tensor for name, tensor in _decoder(second, config).items()},
    }
    first.finish()
    second.finish()
    return Part(config, state)


def _config(encoder: Keys, decoder: Keys, said_heads: str | None) -> MinDalleConfig:
    rows, dim = matrix(encoder, "embed_tokens.weight")
    places, _ = matrix(encoder, "embed_positions.weight")
    hidden, _ = matrix(decoder, "layers.0.glu.fc0.weight")
    codes, width = matrix(decoder, "embed_tokens.weight")
    if width != dim:
        raise CheckpointError(f"{decoder.where}: the decoder must be as wide as the encoder, {dim}, got {width}")
    if codes < CODES:
        message = f"embed_tokens.weight must have at least {CODES} rows, one a code, got {codes}"
        raise CheckpointError(f"{decoder.where}: {message}")
    values = {
        "text_vocab": rows,
        "dim": dim,
        "depth": depth(decoder, "layers."),
        "heads": heads(encoder, dim, HEADS, said_heads),
        "hidden": hidden,
        "text_tokens": places - 2,
        "image_vocab": CODES,
        "grid": square_side(decoder, "embed_positions.weight"),
    }
    return build(MinDalleConfig, values, encoder.where)


def _encoder(keys: Keys, config: MinDalleConfig) -> dict[str, Tensor]:
    state = {
        "table.weight": keys.take("embed_tokens.weight", (config.text_vocab, config.dim)),
        "places": keys.take("embed_positions.weight", (config.max_ids, config.dim)),
        **_norm(keys, "first_norm", "layernorm_embedding", config.dim),
        **_norm(keys, "norm", "final_ln", config.dim),
    }
    for i in range(config.depth):
        of = f"layers.{i}"
        for ours, theirs in _ENCODER_NORMS.items():
            state |= _norm(keys, f"{of}.{ours}", f"{of}.{theirs}", config.dim)
        state |= _attention(keys, f"{of}.attention", f"{of}.self_attn", config.dim)
        state |= _feed(keys, of, config)
    return state


def _decoder(keys: Keys, config: MinDalleConfig) -> dict[str, Tensor]:
    rows = keys.shape("embed_tokens.weight")[0]  # at least CODES, see `_config`
    state = {
        "table.weight": keys.take("embed_tokens.weight", (rows, config.dim))[: config.image_vocab],
        "places": keys.take("embed_positions.weight", (config.image_tokens, config.dim)),
        "head.weight": keys.take("lm_head.weight", (rows, config.dim))[: config.image_vocab],
        **_norm(keys, "first_norm", "layernorm_embedding", config.dim),
        **_norm(keys, "norm", "final_ln", config.dim),
    }
    for i in range(config.depth):
        of = f"layers.{i}"
        for ours, theirs in _DECODER_NORMS.items():
            state |= _norm(keys, f"{of}.{ours}", f"{of}.{theirs}", config.dim)
        state |= _attention(keys, f"{of}.attention", f"{of}.self_attn", config.dim)
        state |= _attention(keys, f"{of}.text_attention", f"{of}.encoder_attn", config.dim)
        state |= _feed(keys, of, config)
    return state


def _norm(keys: Keys, ours: str, theirs: str, width: int) -> dict[str, Tensor]:
    return {f"{ours}.{end}": keys.take(f"{theirs}.{end}", (width,)) for end in ("weight", "bias")}


def _attention(keys: Keys, ours: str, theirs: str, dim: int) -> dict[str, Tensor]:
    return {f"{ours}.{a}.weight": keys.take(f"{theirs}.{b}.weight", (dim, dim)) for a, b in _ATTENTION.items()}


def _feed(keys: Keys, of: str, config: MinDalleConfig) -> dict[str, Tensor]:
    dim, hidden = config.dim, config.hidden
    return {
        **_norm(keys, f"{of}.feed.norm1", f"{of}.glu.ln0", dim),
        **_norm(keys, f"{of}.feed.norm2", f"{of}.glu.ln1", hidden),
        f"{of}.feed.gate.weight": keys.take(f"{of}.glu.fc0.weight", (hidden, dim)),
        f"{of}.feed.passed.weight": keys.take(f"{of}.glu.fc1.weight", (hidden, dim)),
        f"{of}.feed.out.weight": keys.take(f"{of}.glu.fc2.weight", (dim, hidden)),
    }
