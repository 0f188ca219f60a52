"""`dalle-server inspect PATH...` tells what a checkpoint is, and what is wrong with it; or what foreign files are."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer import Argument

from app.commands.common import DEFAULT_WEIGHTS
from model.config import CheckpointConfig, ImageConfig, TransformerConfig
from model.files import find
from model.limits import family_of

if TYPE_CHECKING:
    from model.checkpoints.describe import Description


def inspect(
    paths: Annotated[
        list[Path] | None,
        Argument(metavar="[PATH]...", help="Folder of a checkpoint, or files of other projects.", show_default=False),
    ] = None,
) -> None:
    """Describe a checkpoint: sizes, parameters, licence and sums. The exit status is 1 if it would not load.

    Files of other projects are described too; nothing in them is executed.
    """
    paths = [find(path) for path in paths or [DEFAULT_WEIGHTS]]
    console = Console(highlight=False)
    if len(paths) > 1 or (paths[0].exists() and not paths[0].is_dir()):
        from model.importing.describe import describe_files

        for path, facts in describe_files(paths):
            console.print(_foreign(path, facts))
        return
    from model.checkpoints.describe import describe

    found = describe(paths[0])
    if found.files:
        console.print(_facts(found))
        console.print(_files(found))
    for problem in found.problems:
        typer.echo(f"dalle-server: {problem}", err=True)
    if found.problems:
        raise typer.Exit(1)


def _foreign(path: Path, facts: list[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in [("file", str(path)), *facts]:
        table.add_row(_plain(name), _plain(value))
    return table


def _facts(found: Description) -> Table:
    table = Table(box=None, show_header=False, title=_plain(str(found.path)), title_justify="left", title_style="bold")
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    config = found.config
    if config:
        table.add_row("name", _plain(config.name))
        table.add_row("licence", _plain(config.licence))
        table.add_row("version", _plain(config.version))
        if config.created:
            table.add_row("created", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(config.created)))
        table.add_row("format", f"version {config.format_version}")
        table.add_row("image tokenizer", _vae(config))
        if not isinstance(config, ImageConfig):
            table.add_row("transformer", _transformer(config))
            table.add_row("reranker", _clip(config))
            table.add_row("reviser", _reviser(config))
            if config.styles:
                table.add_row("styles", _plain(_styles(found)))
            table.add_row("sampling", ", ".join(f"{k} {v}" for k, v in dataclasses.asdict(config.sampling).items()))
        for key, value in config.provenance.items():
            table.add_row(_plain(f"provenance.{key}"), _plain(_told(value)))
    if found.vocabulary is not None:
        table.add_row("vocabulary", f"{found.vocabulary:,} text tokens")
    for part, count in found.parameters:
        table.add_row(f"{part} parameters", f"{count:,}")
    faults = len(found.problems)
    verdict = f"{faults} fault{'s' * (faults > 1)}" if faults else "every sum and every tensor matches"
    table.add_row("state", verdict)
    return table


def _told(value: object) -> str:
    """A value of the provenance: a text as it is, a list and an object item by item, figures with five digits."""
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_told(one)}" for key, one in value.items())
    if isinstance(value, float):
        return f"{value:.5g}"
    return value if isinstance(value, str) else json.dumps(value)


def _plain(text: str) -> Text:
    """A text of the checkpoint's, which says nothing to the terminal and has no markup."""
    return Text(text if text.isprintable() else ascii(text))


def _transformer(config: CheckpointConfig) -> str:
    t = config.transformer
    if isinstance(t, TransformerConfig):
        heads = f"{t.heads} heads ({t.kv_heads} for keys and values) of {t.head_dim}"
    else:
        heads = f"{t.heads} heads, of the family {t.family}"
    reads = f"{t.text_tokens} text tokens, {t.image_tokens} image tokens, {t.group} a step"
    return f"{t.depth} layers of {t.dim}, {heads}; {reads}"


def _vae(config: CheckpointConfig | ImageConfig) -> str:
    v = config.vae
    family = family_of(type(v))
    shape = f"{v.image_size} x {v.image_size} pixels, {v.grid} x {v.grid} tokens of {v.codes:,} codes"
    return f"{shape}, of the family {family}" if family else shape


def _clip(config: CheckpointConfig) -> str:
    c = config.clip
    if c is None:
        return "none: best_of goes by the transformer's own likelihood"
    return f"CLIP over image tokens: {c.text_depth} layers of {c.text_dim}, {c.image_depth} of {c.image_dim}"


def _reviser(config: CheckpointConfig) -> str:
    r = config.reviser
    if r is None:
        return "none: prompts are painted as they are"
    return f"{r.depth} layers of {r.dim}, {r.heads} heads of {r.head_dim}; reads {r.prompt_positions} text ids"


def _styles(found: Description) -> str:
    """What each style is called and knows, which is counted if the checkpoint loads."""
    styles = found.config.styles if isinstance(found.config, CheckpointConfig) else ()
    told = []
    for style, known in zip(styles, found.things or [None] * len(styles), strict=True):
        facts = [f'"{style.word}" in captions'] if style.word else []
        facts += [f"knows {known:,} things"] if known is not None else []
        told.append(f"{style.name} ({', '.join(facts)})" if facts else style.name)
    return "; ".join(told)


def _files(found: Description) -> Table:
    table = Table(box=None)
    table.add_column("file")
    table.add_column("bytes", justify="right")
    table.add_column("SHA256SUMS")
    for file in found.files:
        table.add_row(_plain(file.name), "" if file.size is None else f"{file.size:,}", file.fault or "matches")
    table.add_row("in all", f"{sum(file.size or 0 for file in found.files):,}", "")
    return table
