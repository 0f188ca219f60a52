"""`dalle-server generate --prompts FILE` paints every line of a file into a folder. Started again, it goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from app.commands.common import check_out_folder
from app.environment import CLIENT_KEY
from model.errors import DalleError, DataError
from model.limits import printable


def paint_file(
    file: Path, out: Path, fields: Mapping[str, Any], server: str | None, weights: Path, device: str, console: Console
) -> None:
    """Paint what is missing of a file of prompts into the folder `out`.

    fields: for lines that do not tell them. server: the address of a server whose jobs paint; None paints here.
    Raises DataError, which names the file and the line, before anything is painted; and at the end, if a line failed.
    """
    from app.batch.folder import Folder
    from app.batch.lines import read_lines

    check_out_folder(out)
    lines = read_lines(file, fields)
    with _painter(server, weights, device, console) as (model, check, paint):
        for line in lines:
            check(line)
        folder = Folder(out, model)
        try:
            wanted = [one for one in map(folder.wanted, lines) if one.missing]
            pictures = sum(len(one.missing) for one in wanted)
            with _progress(console, pictures) as on_progress:
                failed = paint(folder, wanted, on_progress)
            paths = folder.sheets(lines)
        finally:
            folder.close()
    for path in paths:
        typer.echo(printable(path))
    there = sum(line.count for line in lines) - pictures
    console.print(f"{pictures} pictures to paint, {there} were there", highlight=False)
    if failed:
        more = f"; {len(failed)} lines failed" if len(failed) > 1 else ""
        raise DataError(f"{failed[0]}{more}")


Paint = Callable[..., list[DalleError]]


@contextmanager
def _painter(
    server: str | None, weights: Path, device: str, console: Console
) -> Iterator[tuple[str, Callable[..., None], Paint]]:
    """The name of the model that paints, what checks a line, and what paints lines."""
    if server is None:
        from app.batch.local import check, paint_here
        from model import load

        with console.status("loading"):
            painter = load(weights, device)
        yield (
            painter.checkpoint.config.name,
            lambda line: check(painter, line),
            lambda *more: paint_here(painter, *more),
        )
        return
    from app.batch.remote import RemoteServer, paint_there

    remote = RemoteServer(server, os.environ.get(CLIENT_KEY, ""))
    try:
        yield remote.model(), lambda _: None, partial(paint_there, remote)
    except KeyboardInterrupt:
        console.print("the server paints on; the same command fetches the pictures", highlight=False)
        raise
    finally:
        remote.close()


@contextmanager
def _progress(console: Console, pictures: int) -> Iterator[Callable[[float], object]]:
    """A bar that is told how many pictures are done."""
    columns = (
        TextColumn("painting"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total}"),
        TaskProgressColumn(),
    )
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("painting", total=pictures)
        yield lambda done: progress.update(task, completed=done)
