"""Reads the .pt files of DALLE-pytorch 0.12 to 1.6.6: `hparams` and `weights` become a config and tensors of ours.

What a file's version does not say is read from the keys: the chain of "fn." in front of a feed-forward tells whether
tokens are shifted, and "transformer.pos_emb" tells rotary positions. Where `hparams` says otherwise, the file is
refused. Facts: train_dalle.py and dalle_pytorch/transformer.py of those versions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from statistics import mode
from typing import Any

import torch
from torch import Tensor

from model.errors import CheckpointError
from model.families.dalle_pytorch.config import CONV, CONV_CENTRED, MLP, DallePytorchConfig
from model.families.dalle_pytorch.rotary import rotation_of
from model.families.text.clip import VOCABULARY, ClipTokenizer
from model.families.text.huggingface import HuggingFaceTokenizer
from model.families.text.youtokentome_plain import PlainYouTokenToMe
from model.importing import image
from model.importing.dalle_pytorch_hparams import Hparams, read_hparams
from model.importing.files import Given, Imported, Part, Text
from model.importing.state import Keys, state_dict
from model.limits import build, shown
from model.tokenizers import AnyTokenizer

ROLE = "dalle-pytorch"
# Keys of learned image positions but for their numbers, as axial_positional_embedding until 0.2 and from 0.3 on has
# them. The provenance keeps which of them it was, so that the model can go back to whom it came from.
PLACES = "image_pos_emb"
OLD_PLACES, NEW_PLACES = f"{PLACES}.weights_", f"{PLACES}.weights."
_SAVED = {"hparams", "vae_params", "weights", "epoch", "opt_state", "scheduler_state", "version", "vae_class_name"}
_LAYER = re.compile(
    r"transformer\.layers\.(?:layers\.(\d{1,3})\.([01])|blocks\.(\d{1,3})\.([fg])\.net)\.((?:fn\.)*)(.+)"
)


def roles(content: Any) -> str | None:
    """ "dalle-pytorch" for what train_dalle.py saves, also where its weights are elsewhere; None for anything else."""
    if isinstance(content, dict) and "hparams" in content and "weights" in content and "vae_params" in content:
        return ROLE
    return None


def version_of(content: Mapping[Any, Any], where: str) -> tuple[int, ...] | None:
    """The version of the package that wrote the file, (major, minor, patch); None before 1.1.6, which said none."""
    found = content.get("version")
    if found is None:
        return None
    if not isinstance(found, str) or not re.fullmatch(r"\d{1,3}(\.\d{1,3}){1,2}", found):
        raise CheckpointError(f"{where}: version must be like '1.6.6', got {shown(found)}")
    version = tuple(int(part) for part in found.split("."))
    if version >= (1, 7):
        raise CheckpointError(f"{where}: version must be below 1.7, as later ones are not known here, got {found}")
    return version


def weights_of(content: Mapping[Any, Any], where: str) -> Any:
    """The `weights`, if the dict around them is as train_dalle.py saves it. Raises CheckpointError naming a key."""
    for key in content:
        if key not in _SAVED:
            raise CheckpointError(f"{where}: unknown key {shown(key)}; known are {', '.join(sorted(_SAVED))}")
    weights = content["weights"]
    if isinstance(weights, str):
        message = f"weights is {shown(weights)}, a note that DeepSpeed keeps them in a folder of its own, in parts"
        raise CheckpointError(f"{where}: {message}; join them by its zero_to_fp32.py first")
    return weights


def read(given: Given) -> Imported:
    """The whole model: transformer, image tokenizer and text tokenizer.

    The image tokenizer is in the same file, unless somebody took it out. One that is given beside it must be the same.
    Raises CheckpointError naming what is missing, unknown or wrong.
    """
    file = given.weight(ROLE)
    assert file is not None  # `read_import` has found it
    content, where = file.content, str(file.path)
    weights = state_dict(weights_of(content, where), f"{where}: weights")
    inside = Keys({key: tensor for key, tensor in weights.items() if key.startswith("vae.")}, where)
    keys = Keys({key: tensor for key, tensor in weights.items() if not key.startswith("vae.")}, where)
    places = _places(keys)
    part = read_transformer(content["hparams"], keys, version_of(content, where))
    config = part.config
    vae = _image_tokenizer(given, inside, content["vae_params"], config)
    tokenizer = _tokenizer(given, config, where)
    facts = {
        "layers": f"{config.depth} ({', '.join(dict.fromkeys(config.attention))})",
        "width": str(config.dim),
        "heads": f"{config.heads} of {config.head_dim}",
        "text tokens": str(config.text_tokens),
        "image tokens": str(config.image_tokens),
        "version": str(content.get("version") or "before 1.1.6"),
    }
    if not config.rotary:
        facts[PLACES] = places
    return Imported("dalle-pytorch", "DALLE-pytorch", vae, part, tokenizer, facts=facts)


def _image_tokenizer(given: Given, inside: Keys, vae_params: Any, config: DallePytorchConfig) -> Part:
    beside = any(role != ROLE for role in given.weights)
    yaml = given.text("yaml") if inside.names("vae.model.") else None
    part = image.vae_of(inside, vae_params, yaml.content if yaml else None, config.grid, config.image_vocab)
    inside.finish()
    if part is None:
        if not beside:
            raise CheckpointError(f"{inside.where}: weights have no vae.*: give the file of the image tokenizer too")
        part = image.read_vae(given, config.grid, config.image_vocab)
    elif beside and not _equal(part, image.read_vae(given, config.grid, config.image_vocab)):
        told = f"the image tokenizer beside it is another one than the vae.* in {inside.where}; leave it out"
        raise CheckpointError(f"{next(file.path for role, file in given.weights.items() if role != ROLE)}: {told}")
    found = (part.config.codes, part.config.grid)
    if found != (config.image_vocab, config.grid):
        told = f"{config.image_vocab} codes and {config.grid} tokens a side, as the transformer has, got"
        raise CheckpointError(f"{inside.where}: the image tokenizer must have {told} {found[0]} and {found[1]}")
    return part


def _equal(one: Part, other: Part) -> bool:
    same_names = one.config == other.config and one.state.keys() == other.state.keys()
    return same_names and all(_same(tensor, other.state[name]) for name, tensor in one.state.items())


def _tokenizer(given: Given, config: DallePytorchConfig, where: str) -> AnyTokenizer:
    """Of the file that is given; without one OpenAI's CLIP BPE, as train_dalle.py has it, if the number of ids fits."""
    text = given.text("tokenizer json") or given.text("youtokentome")
    if text is not None:
        if text.kind == "youtokentome":
            plain = PlainYouTokenToMe.read(text.content, str(text.path), config.text_tokens)
            _check_ids(text, plain.vocab_size, config, where)
            return plain
        tokenizer = HuggingFaceTokenizer.of(text.content, str(text.path), config.text_tokens)
        _check_ids(text, max(tokenizer.vocab_size, tokenizer.largest + 1), config, where)
        return tokenizer
    if config.text_vocab != VOCABULARY:
        told = f"of {config.text_vocab} ids (num_text_tokens); only that of {VOCABULARY} needs no file"
        raise CheckpointError(f"{where}: give the file of its text tokenizer too, one {told}")
    return ClipTokenizer.built_in(config.text_tokens)


def _check_ids(text: Text, ids: int, config: DallePytorchConfig, where: str) -> None:
    if ids != config.text_vocab:
        told = f"must have {config.text_vocab} ids, as num_text_tokens in {where} says, got {ids}"
        raise CheckpointError(f"{text.path}: the tokenizer {told}")


def read_transformer(hparams: Any, keys: Keys, version: tuple[int, ...] | None) -> Part:
    """The transformer: `hparams` of the file, `keys` its weights without `vae.*`, used up here.

    Raises CheckpointError naming what is unknown, missing, of a wrong shape, or contradicts itself.
    """
    said = read_hparams(hparams, keys.where)
    names = _Names(keys, said.reversible)
    names.find(0, 1, "net.0.weight")
    shift = _agreed("shift_tokens", said.shift, names.chains["net.0.weight"] > 2, keys.where)
    neither = said.rotary is True and "text_pos_emb.weight" not in keys  # so it is said that the first one is missing
    rotary = _agreed("rotary_emb", said.rotary, "transformer.pos_emb" in keys or neither, keys.where)
    centred = version is None or version < (1, 5)
    tied = said.tied
    attention = tuple(CONV_CENTRED if centred and one == CONV else one for one in said.attention)
    values = {
        "text_vocab": said.text_vocab,
        "text_tokens": said.text_tokens,
        "image_vocab": _codes(keys, said),
        "grid": _grid(keys, said, rotary),
        "dim": said.dim,
        "depth": said.depth,
        "heads": said.heads,
        "head_dim": said.head_dim,
        "attention": attention,
        "rotary": rotary,
        "shift": shift,
        "stable": said.stable,
        "sandwich": said.sandwich,
        "reversible": said.reversible,
        "tied": tied,
        "shared_attention": said.shared_attention,
        "shared_feed": said.shared_feed,
    }
    config = build(DallePytorchConfig, values, keys.where, "hparams")
    state = {**_tables(keys, config), **_layers(names, config)}
    keys.finish()
    return Part(config, state)


def _agreed(key: str, said: bool | None, seen: bool, where: str) -> bool:
    if said is not None and said != seen:
        told = f"hparams has {key} {str(said).lower()}, and the keys of weights are those of a model with the opposite"
        raise CheckpointError(f"{where}: {told}")
    return seen


class _Names:
    """The keys of the layers: each is asked for by its layer, its half, and what follows the chain of "fn."."""

    def __init__(self, keys: Keys, reversible: bool) -> None:
        self.keys, self.reversible = keys, reversible
        self.chains: dict[str, int] = {}  # what follows -> how many fn come before
        self._known: dict[tuple[int, int, str], str] = {}
        for key in keys.names("transformer.layers."):
            match = _LAYER.fullmatch(key)
            if match is None or (match[1] is None) != reversible:
                told = "layers.blocks.N.f" if reversible else "layers.layers.N.0"
                message = f"{shown(key)} must be like transformer.{told}, as reversible in hparams says"
                raise CheckpointError(f"{keys.where}: {message}")
            self.chains.setdefault(match[6], match[5].count("fn."))
            half = "01".find(match[2]) if match[2] else "fg".find(match[4])
            self._known[int(match[1] or match[3]), half, match[6]] = key

    def take(self, layer: int, half: int, name: str, *shapes: tuple[int, ...]) -> Tensor:
        """A tensor in one of these shapes. Raises CheckpointError where it is missing or has none of them."""
        key = self.find(layer, half, name)
        found = self.keys.shape(key)
        return self.keys.take(key, found if found in shapes else shapes[0])

    def find(self, layer: int, half: int, name: str) -> str:
        """The key in the file. Raises CheckpointError where it is missing."""
        key = self._known.get((layer, half, name))
        if key is None:
            front = f"blocks.{layer}.{'fg'[half]}.net" if self.reversible else f"layers.{layer}.{half}"
            chain = "fn." * self.chains.get(name, 0)  # as long as in another layer
            raise CheckpointError(f"{self.keys.where}: the key 'transformer.layers.{front}.{chain}{name}' is missing")
        return key

    def has(self, layer: int, half: int, name: str) -> bool:
        """Whether the file has it."""
        return (layer, half, name) in self._known


def _codes(keys: Keys, said: Hparams) -> int:
    """Image tokens that can be drawn, as most of the tables have rows for; the one that differs is refused later."""
    text = said.text_vocab + said.text_tokens
    _, head = _ends(keys)
    counts = [keys.shape(key)[0] - text for key in (f"{head}.bias", f"{head}.weight") if keys.shape(key)]
    if not said.tied:
        counts += keys.shape("image_emb.weight")[:1]
    found = mode(counts) if counts else 0
    if found < 1:
        told = f"num_text_tokens and text_seq_len make {text} text ids, and {head} has no row for an image token"
        raise CheckpointError(f"{keys.where}: hparams: {told}")
    return found


def _grid(keys: Keys, said: Hparams, rotary: bool) -> int:
    """Image tokens a side: the file has a table with a row, or an entry, for each."""
    if not rotary:
        name = f"{_places(keys)}0"
        shape = keys.shape(name)
        if len(shape) != 4 or shape[0] != 1 or shape[2] != 1:
            raise CheckpointError(f"{keys.where}: {name} must have the shape (1, side, 1, {said.dim}), got {shape}")
        return shape[1]
    shape = keys.shape("transformer.pos_emb")
    rows = (shape[-2] if len(shape) in (3, 4) else 0) - said.text_tokens - (len(shape) == 3)  # 4 until 1.1.1
    side = math.isqrt(max(rows, 0))
    if side < 1 or side * side != rows:
        told = f"must have a row for each of {said.text_tokens} text positions and of a square picture, got {shape}"
        raise CheckpointError(f"{keys.where}: transformer.pos_emb {told}")
    return side


def _places(keys: Keys) -> str:
    """The front of the keys of the two tables of learned image positions."""
    return OLD_PLACES if f"{OLD_PLACES}0" in keys else NEW_PLACES


def _ends(keys: Keys) -> tuple[str, str]:
    """The fronts of the keys of the last norm and of the output's matrix: 0.12.1 to 0.12.4 have a step before both."""
    return ("to_logits.1", "to_logits.2") if keys.names("to_logits.2.") else ("to_logits.0", "to_logits.1")


def _tables(keys: Keys, config: DallePytorchConfig) -> dict[str, Tensor]:
    """Everything but the layers."""
    dim, text, codes, grid = config.dim, config.text_columns, config.image_vocab, config.grid
    norm, head = _ends(keys)
    weight = keys.take(f"{head}.weight", (text + codes, dim))
    bias = keys.take(f"{head}.bias", (text + codes,))
    state = {
        "norm.weight": keys.take(f"{norm}.weight", (dim,)),
        "norm.bias": keys.take(f"{norm}.bias", (dim,)),
        "text_head.weight": weight[:text],
        "text_head.bias": bias[:text],
        "image_head.weight": weight[text:],
        "image_head.bias": bias[text:],
    }
    if config.tied:
        for part in ("text_emb", "image_emb"):
            _repeated(keys, f"{part}.linear.weight", weight)
            _repeated(keys, f"{part}.linear.bias", bias)
    else:
        state["text_table.weight"] = keys.take("text_emb.weight", (text, dim))
        state["image_table.weight"] = keys.take("image_emb.weight", (codes, dim))
    if config.rotary:
        angles = keys.take("transformer.pos_emb")  # (1, capacity + 1, turned), until 1.1.1 (1, 1, capacity, turned)
        if angles.shape[-1] != config.turned or math.prod(angles.shape[:-2]) != 1:
            told = f"(1, {config.capacity + 1}, {config.turned}), got {tuple(angles.shape)}"
            raise CheckpointError(f"{keys.where}: transformer.pos_emb must have the shape {told}")
        state["cos"], state["sin"] = rotation_of(angles.reshape(angles.shape[-2], config.turned)[: config.capacity])
    else:
        row, column = (f"{_places(keys)}{axis}" for axis in (0, 1))
        state["text_places"] = keys.take("text_pos_emb.weight", (config.max_text, dim))
        state["row_places"] = keys.take(row, (1, grid, 1, dim)).reshape(grid, dim)
        state["column_places"] = keys.take(column, (1, 1, grid, dim)).reshape(grid, dim)
    return state


def _repeated(keys: Keys, key: str, first: Tensor) -> None:
    """Uses up a tensor that must be what another key has."""
    if not _same(first, keys.take_buffer(key)):
        raise CheckpointError(f"{keys.where}: {shown(keys.name(key))} must repeat to_logits.1, and differs")


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other))


def _layers(names: _Names, config: DallePytorchConfig) -> dict[str, Tensor]:
    dim = config.dim
    state: dict[str, Tensor] = {}
    for layer in range(config.depth):
        for half in (0, 1):
            of = f"layers.{layer}."
            state[f"{of}scale{half + 1}"] = names.take(layer, half, "scale", (1, 1, dim)).reshape(dim)
            for end in ("weight", "bias"):
                state[f"{of}norm{half + 1}.{end}"] = names.take(layer, half, f"norm.{end}", (dim,))
                if config.sandwich:
                    state[f"{of}after{half + 1}.{end}"] = names.take(layer, half, f"norm_out.{end}", (dim,))
        gated = config.attention[layer] == MLP
        mixer = _gated_mlp(names, layer, config) if gated else _attention(names, layer, config)
        _share(state, f"mixers.{config.attention_of[layer]}", mixer, layer, names.keys)
        _share(state, f"feeds.{config.feed_of[layer]}", _feed(names, layer, dim), layer, names.keys)
    return state


def _share(state: dict[str, Tensor], of: str, part: dict[str, Tensor], layer: int, keys: Keys) -> None:
    """Adds a part of a layer. The package writes what layers share once for each of them."""
    for name, tensor in part.items():
        first = state.setdefault(f"{of}.{name}", tensor)
        if not _same(first, tensor):
            told = f"layer {layer} must repeat what it shares with an earlier one, and its {name} differs"
            raise CheckpointError(f"{keys.where}: {told}")


def _attention(names: _Names, layer: int, config: DallePytorchConfig) -> dict[str, Tensor]:
    dim, inner = config.dim, config.heads * config.head_dim
    return {
        "qkv.weight": names.take(layer, 0, "to_qkv.weight", (3 * inner, dim)),
        "out.weight": names.take(layer, 0, "to_out.0.weight", (dim, inner)),
        "out.bias": names.take(layer, 0, "to_out.0.bias", (dim,)),
    }


def _feed(names: _Names, layer: int, dim: int) -> dict[str, Tensor]:
    return {
        "w1.weight": names.take(layer, 1, "net.0.weight", (8 * dim, dim)),
        "w1.bias": names.take(layer, 1, "net.0.bias", (8 * dim,)),
        "w2.weight": names.take(layer, 1, "net.3.weight", (dim, 4 * dim)),
        "w2.bias": names.take(layer, 1, "net.3.bias", (dim,)),
    }


def _gated_mlp(names: _Names, layer: int, config: DallePytorchConfig) -> dict[str, Tensor]:
    """Its mixing weights have had three names: those of a convolution until g_mlp_pytorch 0.0, then two shapes."""
    dim, n = config.dim, config.capacity
    own = names.has(layer, 0, "sgu.weight")
    of = "sgu" if own else "sgu.proj"
    weight = names.take(layer, 0, f"{of}.weight", *(((1, n, n), (n, n)) if own else ((n, n, 1),)))
    bias = names.take(layer, 0, f"{of}.bias", *(((1, n), (n,)) if own else ((n,),)))
    if own and names.has(layer, 0, "sgu.proj.weight"):  # 0.1.0 has an unused one
        names.take(layer, 0, "sgu.proj.weight", (n, n, 1))
        names.take(layer, 0, "sgu.proj.bias", (n,))
    return {
        "enter.weight": names.take(layer, 0, "proj_in.0.weight", (4 * dim, dim)),
        "enter.bias": names.take(layer, 0, "proj_in.0.bias", (4 * dim,)),
        "norm.weight": names.take(layer, 0, "sgu.norm.weight", (2 * dim,)),
        "norm.bias": names.take(layer, 0, "sgu.norm.bias", (2 * dim,)),
        "weight": weight.reshape(n, n),
        "bias": bias.reshape(n),
        "leave.weight": names.take(layer, 0, "proj_out.weight", (dim, 2 * dim)),
        "leave.bias": names.take(layer, 0, "proj_out.bias", (dim,)),
    }
