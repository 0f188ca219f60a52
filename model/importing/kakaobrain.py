"""Reads kakaobrain's minDALL-E: stage1_last.ckpt, stage2_last.ckpt, its vocabulary and merges, and config.yaml.

Heads are known by the width of the public model, else said by --set heads=N; config.yaml, if it is given, must agree.
Facts: dalle/models of github.com/kakaobrain/minDALL-E.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from model.config import SamplingDefaults
from model.errors import CheckpointError
from model.families.kakaobrain.config import KakaobrainConfig
from model.families.text.kakaobrain import KakaobrainTokenizer
from model.importing import image
from model.importing.files import Given, Imported, Part
from model.importing.numbers import depth, heads, matrix, square_side
from model.importing.state import Keys, state_dict
from model.limits import build, shown

ROLE = "kakaobrain minDALL-E"
HEADS = {1536: 24}  # by width: 1.3B
SAMPLING = SamplingDefaults(temperature=1.0, top_k=256, guidance=1.0)  # of Dalle.sampling

_MARKS = ("tok_emb_txt.weight", "tok_emb_img.weight", "pos_emb_txt.weight", "pos_emb_img.weight", "head_img.weight")
# Ours -> theirs, within a layer; each has a weight and a bias.
_LAYER = {
    "norm1": "ln1",
    "q": "attn.query",
    "k": "attn.key",
    "v": "attn.value",
    "out": "attn.proj",
    "norm2": "ln2",
    "w1": "mlp.0",
    "w2": "mlp.2",
}


def roles(content: Any) -> str | None:
    """The role of minDALL-E's transformer; None for anything else. A file that lacks a key or two is told too."""
    return ROLE if _place(content) is not None else None


def read(given: Given) -> Imported:
    """The whole model, from its files. Raises CheckpointError naming what is missing, unknown or wrong."""
    weights, vocabulary, merges = given.weight(ROLE), given.text("vocab json"), given.text("merges")
    if weights is None:
        raise CheckpointError("the weights of minDALL-E must be given")
    if vocabulary is None or merges is None:
        missing = "bpe-16k-vocab.json" if vocabulary is None else "bpe-16k-merges.txt"
        raise CheckpointError(f"{weights.path}: a model of minDALL-E has its tokenizer beside it: give {missing} too")
    yaml = given.take_text("yaml")  # it is of both stages, and not as taming's is
    where = str(weights.path)
    keys = Keys(state_dict(_place(weights.content), where), where)
    tokenizer = KakaobrainTokenizer.read(
        vocabulary.content,
        merges.content,
        str(vocabulary.path),
        str(merges.path),
        matrix(keys, "pos_emb_txt.weight")[0],
    )
    part = read_transformer(keys, given.setting("heads"), tokenizer.pad)
    config = part.config
    if yaml is not None:
        _check_yaml(yaml.content, config, str(yaml.path))
    if tokenizer.largest >= config.text_vocab:
        message = f"the tokenizer must have ids below {config.text_vocab}, as tok_emb_txt has"
        raise CheckpointError(f"{vocabulary.path}: {message}, got {tokenizer.largest}")
    vae = image.read_vae(given, config.grid)
    if (vae.config.codes, vae.config.grid) != (config.image_vocab, config.grid):
        message = (
            f"the image tokenizer must have {config.image_vocab} codes and {config.grid} a side, as the decoder has"
        )
        raise CheckpointError(f"{message}, got {vae.config.codes} and {vae.config.grid}")
    facts = {"layers": str(config.depth), "width": str(config.dim), "heads": str(config.heads)}
    return Imported("minDALL-E", "kakaobrain minDALL-E", vae, part, tokenizer, SAMPLING, facts=facts)


def read_transformer(keys: Keys, said_heads: str | None, pad: int) -> Part:
    """The network of these tensors, which are used up. said_heads: what --set heads says. pad: the id of padding.

    Raises CheckpointError naming what is missing, unknown, of a wrong shape, or must be said.
    """
    config = _config(keys, said_heads, pad)
    dim, text, codes = config.dim, config.text_vocab, config.image_vocab
    state: dict[str, Tensor] = {
        "text_table.weight": keys.take("tok_emb_txt.weight", (text, dim)),
        "image_table.weight": keys.take("tok_emb_img.weight", (codes, dim)),
        "text_places": keys.take("pos_emb_txt.weight", (config.text_tokens, dim)),
        "image_places": keys.take("pos_emb_img.weight", (config.image_tokens, dim)),
        "norm.weight": keys.take("ln_f.weight", (dim,)),
        "norm.bias": keys.take("ln_f.bias", (dim,)),
        "text_head.weight": keys.take("head_txt.weight", (text, dim)),
        "image_head.weight": keys.take("head_img.weight", (codes, dim)),
    }
    shapes = {"norm1": (dim,), "norm2": (dim,), "w1": (4 * dim, dim), "w2": (dim, 4 * dim)}
    for i in range(config.depth):
        for ours, theirs in _LAYER.items():
            shape = shapes.get(ours, (dim, dim))
            state[f"layers.{i}.{ours}.weight"] = keys.take(f"blocks.{i}.{theirs}.weight", shape)
            state[f"layers.{i}.{ours}.bias"] = keys.take(f"blocks.{i}.{theirs}.bias", shape[:1])
    keys.finish()
    return Part(config, state)


def _place(content: Any) -> dict[Any, Any] | None:
    """The state dict in a file's content, not looked through."""
    if not isinstance(content, dict):
        return None
    for state in (content.get("state_dict"), content):
        if isinstance(state, dict) and sum(key in state for key in _MARKS) >= 2:
            return state
    return None


def _config(keys: Keys, said_heads: str | None, pad: int) -> KakaobrainConfig:
    text, dim = matrix(keys, "tok_emb_txt.weight")
    values = {
        "text_vocab": text,
        "image_vocab": matrix(keys, "tok_emb_img.weight")[0],
        "dim": dim,
        "depth": depth(keys, "blocks."),
        "heads": heads(keys, dim, HEADS, said_heads),
        "pad": pad,
        "text_tokens": matrix(keys, "pos_emb_txt.weight")[0],
        "grid": square_side(keys, "pos_emb_img.weight"),
    }
    return build(KakaobrainConfig, values, keys.where)


def _check_yaml(values: Any, config: KakaobrainConfig, where: str) -> None:
    """Raises CheckpointError where config.yaml says another model than the tensors do, or one that is not read."""
    stage = values.get("stage2") if isinstance(values, dict) else None
    hparams = stage.get("hparams") if isinstance(stage, dict) else None
    if not isinstance(hparams, dict):
        raise CheckpointError(f"{where}: a yaml of minDALL-E must have stage2.hparams")
    wanted = {"embed_dim": config.dim, "n_layers": config.depth, "n_heads": config.heads, "gelu_use_approx": False}
    for key, value in wanted.items():
        if key in hparams and hparams[key] != value:
            raise CheckpointError(
                f"{where}: stage2.hparams.{key} must be {shown(value)} here, got {shown(hparams[key])}"
            )
