"""The native format: a folder that rebuilds its model by itself.

    config.json                  CheckpointConfig: format version, both models' shapes, sampling defaults, provenance
    tokenizer.json               byte-level BPE
    vae-*.safetensors            the image tokenizer, encoder and decoder
    transformer-*.safetensors    the decoder-only transformer
    clip-*.safetensors           the reranker, where config.json has a section "clip"
    SHA256SUMS                   written last; every file it lists is compared before use

Loading is strict: nothing is guessed, skipped or left at random, and nothing in a checkpoint is ever executed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from model.checkpoints import shards, sums
from model.clip import Clip
from model.config import CheckpointConfig, from_dict, to_dict
from model.errors import CheckpointError
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from model.vae import VAE

M = TypeVar("M", bound=nn.Module)
CONFIG, TOKENIZER = "config.json", "tokenizer.json"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model. vae, transformer, clip: in evaluation mode, float32. path: the folder it came from."""

    config: CheckpointConfig
    tokenizer: Tokenizer
    vae: VAE = field(repr=False)
    transformer: Transformer = field(repr=False)
    path: Path
    clip: Clip | None = field(default=None, repr=False)


def load(path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read, compare and rebuild the checkpoint in the folder `path`.

    Raises CheckpointError, one line naming the file, for anything missing, damaged, unknown or inconsistent.
    """
    path = Path(path)
    listed = sums.load(path)
    config = read_config(listed)
    tokenizer = Tokenizer.parse(listed.read(TOKENIZER), str(path / TOKENIZER), config.transformer.text_tokens)
    _check_parts_agree(config, tokenizer, path)
    vae = _rebuild(VAE, config.vae, listed, "vae")
    transformer = _rebuild(Transformer, config.transformer, listed, "transformer")
    clip = _rebuild(Clip, config.clip, listed, "clip").to(device) if config.clip else None
    for name in listed.names:
        if not name.endswith(".safetensors") and name not in (CONFIG, TOKENIZER):
            listed.read(name)  # documents are not needed to run, but what is listed is compared
    return Checkpoint(config, tokenizer, vae.to(device), transformer.to(device), path, clip)


def save(
    path: str | Path,
    config: CheckpointConfig,
    tokenizer: Tokenizer,
    vae: VAE,
    transformer: Transformer,
    dtype: torch.dtype = torch.bfloat16,
    documents: Mapping[str, str | bytes] | None = None,
    clip: Clip | None = None,
) -> None:
    """Write a checkpoint to the folder `path`: built beside it, then renamed, so that nobody ever reads half of one.

    dtype: of the stored tensors, bfloat16 or float32. documents: further files, name -> content (MODEL_CARD.md).
    clip: given exactly if the config has a section of it.
    A checkpoint that stands there is replaced. Raises CheckpointError if something else does.
    """
    path = Path(path)
    if dtype not in shards.STORED:
        raise ValueError(f"dtype: {dtype} is neither torch.bfloat16 nor torch.float32")
    if path.exists() and not (path.is_dir() and ((path / sums.NAME).exists() or not any(path.iterdir()))):
        raise CheckpointError(f"{path}: exists and is no checkpoint, so it is not replaced")
    if config.clip != (clip.config if clip else None):
        raise ValueError(f"clip: the config says {config.clip}, and the model is {clip.config if clip else None}")
    _check_parts_agree(config, tokenizer, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        new, old = beside / "new", beside / "old"
        new.mkdir()
        for name, content in (documents or {}).items():
            sums.write_file(new / name, content.encode() if isinstance(content, str) else content)
        text = json.dumps(to_dict(config), indent=2, ensure_ascii=False) + "\n"
        sums.write_file(new / CONFIG, text.encode())
        sums.write_file(new / TOKENIZER, tokenizer.to_bytes())
        shards.write(new, "vae", vae.state_dict(), dtype)
        shards.write(new, "transformer", transformer.state_dict(), dtype)
        if clip:
            shards.write(new, "clip", clip.state_dict(), dtype)
        sums.write(new)
        if path.exists():
            path.rename(old)
        new.rename(path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read_config(listed: sums.Sums) -> CheckpointConfig:
    """The config of the folder that `listed` belongs to. Raises CheckpointError naming config.json and the key."""
    path = listed.folder / CONFIG
    data = listed.read(CONFIG)
    try:
        values: Any = json.loads(data)
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from None
    return from_dict(values, str(path))


def _check_parts_agree(config: CheckpointConfig, tokenizer: Tokenizer, path: Path) -> None:
    vae, transformer = config.vae, config.transformer
    where = path / CONFIG
    if vae.codes != transformer.image_vocab:
        raise CheckpointError(f"{where}: the VAE has {vae.codes} codes, the transformer {transformer.image_vocab}")
    if transformer.code_levels and vae.levels != transformer.code_levels:
        raise CheckpointError(
            f"{where}: the VAE's levels are {vae.levels}, the transformer's {transformer.code_levels}"
        )
    if vae.grid != transformer.grid:
        raise CheckpointError(f"{where}: the VAE has {vae.grid} tokens a side, the transformer {transformer.grid}")
    if tokenizer.vocab_size > transformer.text_vocab:
        found = f"{tokenizer.vocab_size} tokens, and the transformer's table has {transformer.text_vocab}"
        raise CheckpointError(f"{path / TOKENIZER}: {found}")
    if clip := config.clip:
        if (vae.grid, vae.levels) != (clip.grid, clip.levels):
            found = f"{vae.grid} tokens a side of the levels {vae.levels}, the CLIP reads {clip.grid} of {clip.levels}"
            raise CheckpointError(f"{where}: the VAE has {found}")
        if tokenizer.vocab_size > clip.text_vocab:
            found = f"{tokenizer.vocab_size} tokens, and the CLIP's table has {clip.text_vocab}"
            raise CheckpointError(f"{path / TOKENIZER}: {found}")


def _rebuild(cls: type[M], config: Any, listed: sums.Sums, part: str) -> M:
    where = str(listed.folder / f"{part}-*.safetensors")
    try:
        with torch.device("meta"):
            module = cls(config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{listed.folder / CONFIG}: {part}: no model can be built: {error}") from None
    shards.fill(module, shards.read(listed, part), where)
    return module.eval()
