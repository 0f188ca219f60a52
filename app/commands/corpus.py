"""`dalle-server corpus build`: the pictures and captions that the default model learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from typer import Option

app = typer.Typer(help="The default corpus: captioned drawings from public packages.")


@app.callback()
def options() -> None:
    """The default corpus: captioned drawings from public packages."""


@app.command("build")
def build(
    out: Annotated[Path, Option("-o", "--out", help="Folder for the shards.")] = Path("data/corpus"),
    selection: Annotated[str, Option(help="common: everyday things; full: all sources; eval: held out.")] = "common",
    source: Annotated[list[str] | None, Option(help="Only this source (repeat).", show_default="all")] = None,
    cache: Annotated[
        Path | None, Option(help="Keeps packages and rendered drawings.", show_default="~/.cache/dalle-server/corpus")
    ] = None,
    seed: Annotated[int, Option(min=0, help="Of the compositions.")] = 0,
    processes: Annotated[int | None, Option(min=1, help="Processes.", show_default="one a processor")] = None,
) -> None:
    """Fetch packages with npm and apt-get, render their drawings, write tar shards, a manifest and NOTICE."""
    from model.training import corpus

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as bars:
        task = bars.add_task("starting", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total)

        summary = corpus.build(
            out, selection, cache=cache, sources=source, seed=seed, processes=processes, progress=progress
        )
    table = Table(box=None, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("pictures", f"{summary.pictures:,} of {summary.concepts:,} concepts in {len(summary.shards)} shards")
    for title, counts in (("splits", summary.splits), ("kinds", summary.kinds), ("sources", summary.sources)):
        table.add_row(title, ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    if summary.dropped:
        table.add_row("dropped", ", ".join(f"{why} {count:,}" for why, count in summary.dropped.items()))
    for name, why in summary.left_out.items():
        table.add_row("left out", f"{name}: {why}")
    Console(highlight=False).print(table)
    typer.echo(out)
