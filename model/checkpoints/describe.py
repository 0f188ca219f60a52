"""What a checkpoint's folder holds, and what in it does not match: `dalle-server inspect`. Raises nothing for a damaged
one; every damage is a line of the answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from model.checkpoints import native, sums
from model.config import CheckpointConfig
from model.errors import CheckpointError


@dataclass(frozen=True)
class File:
    """size: bytes, None for a file that is listed and missing. fault: what is wrong with it, None for nothing."""

    name: str
    size: int | None
    fault: str | None = None


@dataclass(frozen=True)
class Description:
    """files: listed or standing there, by name. parameters: by part ("vae.encoder", ...), empty if it does not load.

    problems: one line each; empty exactly if `load` succeeds.
    """

    path: Path
    files: tuple[File, ...] = ()
    config: CheckpointConfig | None = None
    vocabulary: int | None = None  # text tokens that the tokenizer knows
    parameters: tuple[tuple[str, int], ...] = ()
    problems: tuple[str, ...] = ()


def describe(path: str | Path) -> Description:
    """Read the folder `path` and try to load it."""
    path = Path(path)
    try:
        listed = sums.load(path)
    except CheckpointError as error:
        return Description(path, problems=(str(error),))
    standing = {file.name: file.stat().st_size for file in path.iterdir() if file.is_file() and file.name != sums.NAME}
    files, problems = [], []
    for name in sorted({*listed.names, *standing}):
        fault = None
        if name not in listed.names:
            fault = "not listed"  # such a file is not read, so it is no problem
        else:
            try:
                listed.read(name)
            except CheckpointError as error:
                fault = "altered or cut short" if name in standing else "missing"
                problems.append(str(error))
        files.append(File(name, standing.get(name), fault))
    try:
        config = native.read_config(listed)
    except CheckpointError as error:
        return Description(path, tuple(files), problems=(*problems, *({str(error)} - set(problems))))
    try:
        loaded = native.load(path)
    except CheckpointError as error:
        return Description(path, tuple(files), config, problems=(*problems, *({str(error)} - set(problems))))
    parameters = (
        ("transformer", _count(loaded.transformer)),
        ("vae.encoder", _count(loaded.vae.encoder)),
        ("vae.decoder", _count(loaded.vae.decoder)),
        *([("clip", _count(loaded.clip))] if loaded.clip else []),
    )
    return Description(path, tuple(files), config, loaded.tokenizer.vocab_size, parameters)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
