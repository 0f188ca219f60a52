"""A model becomes a .pt of DALLE-pytorch 1.6.6 (github.com/lucidrains/DALLE-pytorch), which its DALLE class loads.

    paths = write(checkpoint, Path("dalle.pt"))

This is the inverse of `model.importing.dalle_pytorch`: the same names, written out. Nothing is approximated. A model
that the package cannot compute exactly is refused, and the one line says why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from torch import Tensor

from model.checkpoints import Checkpoint
from model.config import AnyTransformerConfig
from model.errors import CheckpointError
from model.exporting.image import VAEFile, vae_file
from model.families.dalle_pytorch.config import CONV_CENTRED, MLP, DallePytorchConfig
from model.families.dalle_pytorch.rotary import angles, rotation_of
from model.families.dalle_pytorch.transformer import DallePytorchTransformer
from model.families.text.clip import ClipTokenizer
from model.families.text.huggingface import HuggingFaceTokenizer
from model.families.text.youtokentome_plain import PlainYouTokenToMe
from model.importing.dalle_pytorch import NEW_PLACES, OLD_PLACES, PLACES
from model.tokenizers import AnyTokenizer

VERSION = "1.6.6"  # of the package, which goes by it
LOSS_IMG_WEIGHT = 7  # the package's default; training asks for it


def write(checkpoint: Checkpoint, path: Path) -> list[Path]:
    """Write the model to the file `path`, and beside it what the package asks for besides. Returns all paths.

    Beside it: NAME.json or NAME.model, the text tokenizer, unless it is CLIP's; NAME.ckpt and NAME.yaml, a VQGAN, where
    NAME is that of `path` without its suffix. Raises CheckpointError, also where one of them is there already.
    """
    transformer, where = checkpoint.transformer, str(checkpoint.path)
    check(transformer.config, where)
    assert isinstance(transformer, DallePytorchTransformer)
    vae = vae_file(checkpoint.vae, where)
    old = checkpoint.config.provenance.get(PLACES) == OLD_PLACES
    content = content_of(transformer, vae, where, OLD_PLACES if old else NEW_PLACES)
    files: dict[str, Any] = dict(_text_files(checkpoint.tokenizer, where))
    if vae.yaml is not None:
        state = {key.removeprefix("model."): tensor for key, tensor in vae.weights.items()}
        files |= {".ckpt": {"state_dict": state}, ".yaml": yaml.safe_dump(vae.yaml, sort_keys=False).encode()}
    if path.suffix in files:
        raise CheckpointError(f"{path}: must have a name that ends in .pt, got the name of a file beside it")
    paths = {path.with_suffix(suffix): data for suffix, data in files.items()}
    paths[path] = content  # last: where it stands, the others do too
    if there := [str(one) for one in paths if os.path.lexists(one)]:
        raise CheckpointError(f"{there[0]}: exists, so it is not replaced")
    path.parent.mkdir(parents=True, exist_ok=True)
    for one, data in paths.items():
        with _appearing(one) as partial:
            if isinstance(data, bytes):
                partial.write_bytes(data)
            else:
                torch.save(data, partial)
    return [path, *(one for one in paths if one != path)]


def check(config: AnyTransformerConfig, where: str) -> None:
    """Raises CheckpointError where the package cannot compute this transformer. where: names the model."""
    if not isinstance(config, DallePytorchConfig):
        told = "the transformer must be of DALLE-pytorch's shape, which --preset dalle-pytorch-512x12 trains"
        raise CheckpointError(f"{where}: {told}")
    if CONV_CENTRED in config.attention:
        told = "conv_like meant another window until DALLE-pytorch 1.4.2, which made this model, than since 1.5"
        raise CheckpointError(f"{where}: {told}, so {VERSION} cannot compute it")
    if MLP in config.attention:
        raise CheckpointError(f"{where}: a layer is of the kind mlp, which DALLE-pytorch {VERSION} does not have")


def content_of(
    transformer: DallePytorchTransformer, vae: VAEFile, where: str, places: str = NEW_PLACES
) -> dict[str, Any]:
    """What train_dalle.py saves, without the state of its optimizer.

    where: names the model. places: the key of learned image positions but for its number. Raises CheckpointError.
    """
    weights = {f"vae.{key}": tensor for key, tensor in vae.weights.items()}
    return {
        "hparams": hparams(transformer.config),
        "vae_params": vae.params,
        "epoch": 0,
        "version": VERSION,
        "vae_class_name": vae.class_name,
        "weights": {**dict(_weights(transformer, where, places)), **weights},
    }


def hparams(config: DallePytorchConfig) -> dict[str, Any]:
    """The arguments of the package's DALLE, as train_dalle.py of 1.6.6 saves them."""
    said = {
        "num_text_tokens": config.text_vocab,
        "text_seq_len": config.text_tokens,
        "dim": config.dim,
        "depth": config.depth,
        "heads": config.heads,
        "dim_head": config.head_dim,
        "reversible": config.reversible,
        "loss_img_weight": LOSS_IMG_WEIGHT,
        "attn_types": _repeated(config.attention),
        "ff_dropout": 0.0,
        "attn_dropout": 0.0,
        "stable": config.stable,
        "shift_tokens": config.shift,
        "rotary_emb": config.rotary,
        "shared_attn_ids": config.shared_attention or None,
        "shared_ff_ids": config.shared_feed or None,
        "share_input_output_emb": config.tied,
    }
    return {**said, **({"sandwich_norm": True} if config.sandwich else {})}  # train_dalle.py has no flag for it


def _repeated(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """The shortest tuple that gives these kinds when it is repeated over the layers, as the package does."""
    lengths = range(1, len(kinds) + 1)
    n = next(n for n in lengths if all(kind == kinds[i % n] for i, kind in enumerate(kinds)))
    return kinds[:n]


def _weights(transformer: DallePytorchTransformer, where: str, places: str) -> Iterator[tuple[str, Tensor]]:
    config, state = transformer.config, transformer.state_dict()
    dim, grid = config.dim, config.grid
    if config.rotary:
        yield "transformer.pos_emb", _positions(config, state, where)
    else:
        yield "text_pos_emb.weight", state["text_places"]
        yield f"{places}0", state["row_places"].view(1, grid, 1, dim)
        yield f"{places}1", state["column_places"].view(1, 1, grid, dim)
    for layer in range(config.depth):
        yield from _layer(config, state, layer)
    yield "to_logits.0.weight", state["norm.weight"]
    yield "to_logits.0.bias", state["norm.bias"]
    head = {end: torch.cat([state[f"text_head.{end}"], state[f"image_head.{end}"]]) for end in ("weight", "bias")}
    for end, tensor in head.items():
        yield f"to_logits.1.{end}", tensor
    for part in ("text", "image"):
        if config.tied:
            yield f"{part}_emb.linear.weight", head["weight"]
            yield f"{part}_emb.linear.bias", head["bias"]
        else:
            yield f"{part}_emb.weight", state[f"{part}_table.weight"]


def _layer(config: DallePytorchConfig, state: Mapping[str, Tensor], layer: int) -> Iterator[tuple[str, Tensor]]:
    """Both halves. What layers share is written once for each of them, as the package does."""
    of = f"layers.{layer}."
    mixer, feed = f"mixers.{config.attention_of[layer]}.", f"feeds.{config.feed_of[layer]}."
    inside = (
        {"to_qkv.weight": "qkv.weight", "to_out.0.weight": "out.weight", "to_out.0.bias": "out.bias"},
        {"net.0.weight": "w1.weight", "net.0.bias": "w1.bias", "net.3.weight": "w2.weight", "net.3.bias": "w2.bias"},
    )
    for half, part in enumerate((mixer, feed)):
        front = f"blocks.{layer}.{'fg'[half]}.net." if config.reversible else f"layers.{layer}.{half}."
        front = f"transformer.layers.{front}"
        yield f"{front}scale", state[f"{of}scale{half + 1}"].view(1, 1, -1)
        for end in ("weight", "bias"):
            yield f"{front}fn.norm.{end}", state[f"{of}norm{half + 1}.{end}"]
            if config.sandwich:
                yield f"{front}fn.norm_out.{end}", state[f"{of}after{half + 1}.{end}"]
        chain = "fn." * (3 - half + 2 * config.shift)  # the wrappers of 1.4 and later
        for theirs, ours in inside[half].items():
            yield f"{front}{chain}{theirs}", state[part + ours]


def _positions(config: DallePytorchConfig, state: Mapping[str, Tensor], where: str) -> Tensor:
    """The rotary angles (1, capacity + 1, turned) whose cosines and sines the model has, bit for bit."""
    exact = angles(config)
    for found in (exact, exact.half().float()):  # files made in float16 have them rounded
        rotation = rotation_of(found[: config.capacity])
        if torch.equal(rotation.cos, state["cos"].cpu()) and torch.equal(rotation.sin, state["sin"].cpu()):
            return found.unsqueeze(0)
    told = "its rotary positions must be those that DALLE-pytorch 1.6.6 computes for its sizes, got others"
    raise CheckpointError(f"{where}: {told}")


def _text_files(tokenizer: AnyTokenizer, where: str) -> dict[str, bytes]:
    """The file of the text tokenizer, by its suffix; none for CLIP's, which the package has."""
    match tokenizer:
        case ClipTokenizer():
            return {}
        case HuggingFaceTokenizer():
            return {".json": tokenizer.to_bytes()}
        case PlainYouTokenToMe():
            return {".model": tokenizer.to_model().encode()}
    raise CheckpointError(f"{where}: DALLE-pytorch has no text tokenizer of the kind of this model's")


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A path beside `path`. The file that is written to it is renamed to `path`, unless something is raised."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
