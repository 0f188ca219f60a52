"""`dalle-server corpus index` counts what index files and pictures hold, and what the filters leave of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from typer import Argument

from app.commands.flags import Given, with_knobs
from model.training.knobs import build
from model.training.options import Rules

if TYPE_CHECKING:
    from model.training.count import Counts

app = typer.Typer(help="Check data before you train on it.")


@app.callback()
def options() -> None:
    """Check data before you train on it."""


@app.command("index")
@with_knobs(Rules, flags=("english",))
def index(
    paths: Annotated[
        list[Path],
        Argument(
            metavar="PATH...",
            help="Index files (Conceptual Captions, YFCC100M, WIT; .gz and .bz2 too), folders and tars of pictures.",
        ),
    ],
    given: Given,
) -> None:
    """Count what training would take from these paths, and what it would leave out and why. Nothing is trained.

    The last line on stdout is JSON.
    """
    from model.training.count import count
    from model.training.extras import check_installed

    rules = build(Rules, given)
    if rules.english:
        check_installed("py3langid")
    counts = count(paths, rules)
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
