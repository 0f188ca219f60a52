"""`dalle-server corpus index` counts what index files and pictures hold, and what the filters leave of them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer import Argument

from app.commands.flags import Given, KnobCommand, with_knobs
from model.limits import printable
from model.training.knobs import build
from model.training.rules import Rules

if TYPE_CHECKING:
    from model.training.count import Counts

app = typer.Typer(help="Check data before you train on it.")


@app.callback()
def options() -> None:
    """Check data before you train on it."""
    warnings.filterwarnings("ignore", module="PIL")  # oddities of files; what cannot be read is counted


@app.command("index", cls=KnobCommand)
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

    def row(text: str, number: int | None = None, share: str = "", style: str = "") -> None:
        table.add_row(Text(printable(text)), "" if number is None else f"{number:,}", share, style=style)

    def section(title: str, total: int, kinds: list[tuple[str, dict[str, int]]], named: dict[str, list[str]]) -> None:
        row(title, total, style="bold")
        for kind, reasons in kinds:
            for reason, number in sorted(reasons.items(), key=lambda entry: -entry[1]):
                row(f"  {kind}{reason}", number, f"{100 * number / max(1, total):.1f} %")
                for name in named.get(reason, ()):
                    row(f"      {name}")

    for path, file in counts.files.items():
        kinds = [("broken: ", dict(file.broken)), ("refused: ", file.refused), ("", {"passed": file.passed})]
        section(f"{path}, rows of {file.layout}", file.rows, kinds, {})
        if file.cut_short:
            row(f"  the file is damaged or cut short: {file.cut_short}")
    if counts.pictures:
        met = counts.pictures
        said = {
            "shard": "tars that are none",
            "end of a shard": "tars that are cut short",
            "list": "row of a list that cannot be read",
        }
        for kind, number in (*((kind, met.corrupt[kind]) for kind in said), *met.unused.items()):
            if number:
                row(said.get(kind, kind), number)
                for name in met.named[kind]:
                    row(f"    {name}")
        kinds = [
            ("corrupt: ", {kind: number for kind, number in met.corrupt.items() if kind in ("picture", "text")}),
            ("refused: ", counts.refused),
            ("", {"joined to a row of an index file": counts.joined} if counts.files else {}),
            ("", {"passed": counts.passed}),
        ]
        section("pictures", met.read + met.undecodable, kinds, met.named)
    return table
