"""From a training run to what the server reads: a native checkpoint of the run's averaged weights."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from model.checkpoints import load as load_checkpoint
from model.checkpoints import save, sums
from model.clip import Clip
from model.config import CheckpointConfig, SamplingDefaults
from model.errors import DataError
from model.reviser import Reviser
from model.tokenizer import Tokenizer
from model.training import train_clip, train_reviser, train_transformer, train_vae
from model.training.loop import read_average
from model.training.prepare import vae_digest
from model.transformer import Transformer
from model.vae import VAE


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """`dalle-server export`: what the run itself does not know."""

    name: str = "dalle-server"
    licence: str = "unstated"
    data: str = "unstated"  # what it was trained on, in words
    sampling: SamplingDefaults = dataclasses.field(default_factory=SamplingDefaults)
    documents: tuple[Path, ...] = ()  # files put beside the weights, under their own names


def is_checkpoint(path: Path) -> bool:
    """True for a native checkpoint's folder, False for a training run's."""
    return (path / sums.NAME).exists()


def find_vae(path: Path) -> VAE:
    """The VAE of a `train vae` run's folder, or of a native checkpoint's. Raises DataError or CheckpointError."""
    return load_checkpoint(path).vae if is_checkpoint(path) else train_vae.load(path)


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run may begin from. vae: None where `path` is a run, which does not say what VAE it was trained with."""

    transformer: Transformer
    tokenizer: Tokenizer
    vae: VAE | None = None
    sampling: SamplingDefaults = dataclasses.field(default_factory=SamplingDefaults)
    clip: Clip | None = None


def find_start(path: Path) -> Start:
    """The folder of a `train transformer` run, or of a native checkpoint. Raises DataError or CheckpointError."""
    if is_checkpoint(path):
        found = load_checkpoint(path)
        return Start(found.transformer, found.tokenizer, found.vae, found.config.sampling, found.clip)
    return Start(train_transformer.load(path), Tokenizer.load(path / "tokenizer.json"))


def find_clip(path: Path, tokenizer: Tokenizer) -> Clip:
    """The CLIP of a `train clip` run's folder, or of a native checkpoint's.

    Raises DataError or CheckpointError, also if it reads other tokens than those of `tokenizer`.
    """
    clip = load_checkpoint(path).clip if is_checkpoint(path) else train_clip.load(path)
    if clip is None:
        raise DataError(f"{path}: this checkpoint has no CLIP")
    _check_reads(path, tokenizer, "CLIP")
    return clip


def find_reviser(path: Path, tokenizer: Tokenizer) -> Reviser:
    """The reviser of a `train reviser` run's folder, or of a native checkpoint's. Raises as `find_clip` does."""
    reviser = load_checkpoint(path).reviser if is_checkpoint(path) else train_reviser.load(path)
    if reviser is None:
        raise DataError(f"{path}: this checkpoint has no reviser")
    _check_reads(path, tokenizer, "reviser")
    return reviser


def _check_reads(path: Path, tokenizer: Tokenizer, what: str) -> None:
    if Tokenizer.load(path / "tokenizer.json").to_bytes() != tokenizer.to_bytes():
        raise DataError(f"{path}: this {what} reads the tokens of another tokenizer than the transformer's")


@torch.no_grad()
def mean_of(
    transformer: Transformer, others: Mapping[Path, float], tokenizer: Tokenizer, vae: VAE | None = None
) -> Transformer:
    """The mean of a transformer's weights and of those of `others`, runs or checkpoints, by their shares.

    The rest is its own. Weights that began from one another mostly lie in one basin, and their mean may be better than
    each of them (model soups, 2203.05482). tokenizer, vae: its own. Raises DataError where the shares leave it nothing
    of its own, and where another one is of another size, or its tokens mean something else.
    """
    own = 1 - sum(others.values())
    if own <= 0 or any(share <= 0 for share in others.values()):
        shares = ", ".join(f"{path} {share:g}" for path, share in others.items())
        raise DataError(f"mean: {shares}: each share is above 0, and all of them together below 1")
    total = {name: own * tensor for name, tensor in transformer.state_dict().items()}
    for path, share in others.items():
        start = find_start(path)
        other = start.transformer
        if other.config != transformer.config:
            raise DataError(f"mean: {path} is a transformer of another size")
        if start.tokenizer.to_bytes() != tokenizer.to_bytes():
            raise DataError(f"mean: {path} reads the tokens of another tokenizer")
        if vae and start.vae and vae_digest(start.vae) != vae_digest(vae):
            raise DataError(f"mean: {path} draws the codes of another VAE")
        for name, tensor in other.state_dict().items():
            total[name] += share * tensor
    mean = Transformer(transformer.config)
    mean.load_state_dict(total)
    return mean.eval()


def export(
    run: Path,
    vae: VAE,
    path: Path,
    options: ExportOptions,
    clip: Path | Clip | None = None,
    mean: Mapping[Path, float] | None = None,
    reviser: Path | None = None,
) -> None:
    """Write the transformer run in the folder `run`, and the VAE it was trained with, as a checkpoint to `path`.

    clip: the reranker that goes with both, or the folder where `find_clip` finds it. mean: see `mean_of`. reviser: the
    folder where `find_reviser` finds it.
    Raises DataError where there is no run, CheckpointError where `path` is something else or the parts do not agree.
    """
    transformer, tokenizer = train_transformer.load(run), Tokenizer.load(run / "tokenizer.json")
    if mean:
        transformer = mean_of(transformer, mean, tokenizer, vae)
    clip = find_clip(clip, tokenizer) if isinstance(clip, Path) else clip
    revises = find_reviser(reviser, tokenizer) if reviser else None
    _, _, history = read_average(run)
    config = CheckpointConfig(
        name=options.name,
        licence=options.licence,
        vae=vae.config,
        transformer=transformer.config,
        sampling=options.sampling,
        provenance={"data": options.data, "figures": history[-1] if history else {}, "torch": torch.__version__},
        created=int(time.time()),
        clip=clip.config if clip else None,
        reviser=revises.config if revises else None,
    )
    try:
        documents = {document.name: document.read_bytes() for document in options.documents}
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    save(path, config, tokenizer, vae, transformer, documents=documents, clip=clip, reviser=revises)
