"""`dalle-server corpus build`: the pictures and captions that the default model learns from.

`dalle-server corpus index`: what index files and pictures hold, and what the filters leave of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from typer import Argument, Option

from app.commands.flags import RuleFlags, spread

if TYPE_CHECKING:
    from model.training.count import Counts

app = typer.Typer(help="Data to train on: the default corpus, and what the filters say of other data.")


@app.callback()
def options() -> None:
    """Data to train on: the default corpus, and what the filters say of other data."""


@app.command("build")
def build(
    out: Annotated[Path, Option("-o", "--out", help="Folder for the shards.")] = Path("data/corpus"),
    selection: Annotated[str, Option(help="common: everyday things; full: all sources; eval: held out.")] = "common",
    source: Annotated[list[str] | None, Option(help="Only this source (repeat).", show_default="all")] = None,
    cache: Annotated[
        Path | None, Option(help="Keeps packages and rendered drawings.", show_default="~/.cache/dalle-server/corpus")
    ] = None,
    seed: Annotated[int, Option(min=0, help="Of the compositions.")] = 0,
    grounds: Annotated[int, Option(min=0, max=12, help="Every drawing also on so many colours, in its place.")] = 0,
    pairs: Annotated[int, Option(min=0, help="Every thing also with so many others, and two to five times.")] = 0,
    concepts: Annotated[
        Path | None, Option(help="Only drawings of a file's things, one a line, as train transformer takes it.")
    ] = None,
    paired: Annotated[Path | None, Option(help="With --pairs: only a file's things are counted and paired.")] = None,
    in_colours: Annotated[int, Option(min=0, max=10, help="Every drawing with one main colour in so many others.")] = 0,
    dyed: Annotated[Path | None, Option(help="With --in-colours: only a file's things.")] = None,
    one_each: Annotated[bool, Option(help="One drawing a thing: by the first --source that has it.")] = False,
    say_style: Annotated[bool, Option(help="Captions of a thing alone always tell its style: a 3d cat.")] = False,
    kind: Annotated[list[str] | None, Option(help="Only this kind of picture (repeat).", show_default="all")] = None,
    processes: Annotated[int | None, Option(min=1, help="Processes.", show_default="one a processor")] = None,
) -> None:
    """Fetch packages with npm and apt-get, render their drawings, write tar shards, a manifest and NOTICE."""
    from model.training import corpus
    from model.training.selection import read_concepts

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

        plan = corpus.Plan(
            selection=selection,
            seed=seed,
            grounds=grounds,
            pairs=pairs,
            concepts=read_concepts(concepts) if concepts else {},
            paired=read_concepts(paired) if paired else {},
            in_colours=in_colours,
            dyed=read_concepts(dyed) if dyed else {},
            one_each=one_each,
            say_style=say_style,
            kinds=kind or (),
        )
        summary = corpus.build(out, plan, cache=cache, sources=source, processes=processes, progress=progress)
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


@app.command("index")
@spread()
def index(
    paths: Annotated[
        list[Path],
        Argument(
            metavar="PATH...",
            help="Index files (Conceptual Captions, YFCC100M, WIT; .gz and .bz2 too), folders and tars of pictures.",
        ),
    ],
    rules: RuleFlags,
) -> None:
    """Count what training on these paths would take and leave out, and why: a dry run. Ends with a line of JSON."""
    from model.training.count import count

    counts = count(paths, rules.rules())
    Console(highlight=False).print(_table(counts))
    typer.echo(json.dumps(counts.to_dict(), ensure_ascii=False))


def _table(counts: Counts) -> Table:
    table = Table(box=None)
    table.add_column("", style="dim", overflow="fold")
    table.add_column("count", justify="right")
    table.add_column("share", justify="right")

    def section(title: str, total: int, kinds: list[tuple[str, dict[str, int]]]) -> None:
        table.add_row(title, f"{total:,}", "", style="bold")
        for kind, reasons in kinds:
            for reason, number in sorted(reasons.items(), key=lambda entry: -entry[1]):
                table.add_row(f"  {kind}{reason}", f"{number:,}", f"{100 * number / max(1, total):.1f} %")

    for path, file in counts.files.items():
        kinds = [("broken: ", dict(file.broken)), ("refused: ", file.refused), ("", {"passed": file.passed})]
        section(f"{path}, rows of {file.layout}", file.rows, kinds)
        if file.cut_short:
            table.add_row(f"  the file is damaged or cut short: {file.cut_short}", "", "")
    if counts.pictures:
        met = counts.pictures
        tars = {kind: number for kind, number in met.corrupt.items() if "shard" in kind}
        for kind, number in tars.items():
            table.add_row("tars that are none" if kind == "shard" else "tars that are cut short", f"{number:,}", "")
        others = {"row of a list that cannot be read": met.corrupt["list"], **met.unused}
        for kind, number in others.items():
            if number:
                table.add_row(kind, f"{number:,}", "")
        kinds = [
            ("corrupt: ", {kind: number for kind, number in met.corrupt.items() if kind in ("picture", "text")}),
            ("refused: ", counts.refused),
            ("", {"joined to a row of an index file": counts.joined} if counts.files else {}),
            ("", {"passed": counts.passed}),
        ]
        section("pictures", met.read + met.undecodable, kinds)
    return table
