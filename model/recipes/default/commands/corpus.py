"""`python -m model.recipes.default corpus` makes the pictures and captions that the default model learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from typer import Option

from model.recipes.default.corpus import Plan, build
from model.training.selection import read_concepts


def corpus(
    out: Annotated[Path, Option("-o", "--out", help="Folder for the shards.")] = Path("data/corpus"),
    selection: Annotated[
        str, Option(help="common: everyday things. full: all sources. eval: the held-out vendor.")
    ] = "common",
    source: Annotated[
        list[str] | None, Option(help="Use only this source. Repeat it for several.", show_default="all")
    ] = None,
    cache: Annotated[
        Path | None,
        Option(help="Folder for packages and rendered drawings.", show_default="~/.cache/dalle-server/corpus"),
    ] = None,
    seed: Annotated[int, Option(min=0, help="Of the compositions.")] = 0,
    backgrounds: Annotated[int, Option(min=0, max=12, help="Show every drawing also on so many colours.")] = 0,
    pairs: Annotated[
        int, Option(min=0, help="Show every thing also beside so many others, and two to five times.")
    ] = 0,
    concepts: Annotated[Path | None, Option(help="Use only drawings of the things in this file, one a line.")] = None,
    paired: Annotated[Path | None, Option(help="With --pairs: count and pair only the things in this file.")] = None,
    in_colours: Annotated[
        int, Option(min=0, max=10, help="Show every drawing that has a main colour also in so many others.")
    ] = 0,
    dyed: Annotated[Path | None, Option(help="With --in-colours: show only the things in this file so.")] = None,
    one_each: Annotated[
        bool, Option(help="Use one drawing of each thing, from the first --source that has it.")
    ] = False,
    say_style: Annotated[bool, Option(help="Name the style in every caption of a thing alone: a 3d cat.")] = False,
    kind: Annotated[
        list[str] | None, Option(help="Make only this kind of picture. Repeat it for several.", show_default="all")
    ] = None,
    processes: Annotated[int | None, Option(min=1, help="Processes.", show_default="one a processor")] = None,
) -> None:
    """Fetch packages with npm and apt-get, render their drawings, and write tar shards, a manifest and NOTICE."""
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

        plan = Plan(
            selection=selection,
            seed=seed,
            backgrounds=backgrounds,
            pairs=pairs,
            concepts=read_concepts(concepts) if concepts else {},
            paired=read_concepts(paired) if paired else {},
            in_colours=in_colours,
            dyed=read_concepts(dyed) if dyed else {},
            one_each=one_each,
            say_style=say_style,
            kinds=kind or (),
        )
        summary = build(out, plan, cache=cache, sources=source, processes=processes, progress=progress)
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
