"""`measure` evaluates a checkpoint, and `sweep` finds its best sampling parameters."""

from __future__ import annotations

import dataclasses
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from typer import Argument, Option

from model.recipes.default.commands.options import WEIGHTS, Device, Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from model.painter import Painter
    from model.recipes.default.evaluation import Options

GPU_SLOTS = 128  # a picture with guidance takes two; on a GPU many pictures at once cost little more than few
SECONDS_A_LINE = 60.0  # between lines of progress, where stderr is no terminal
PART_NAMES = "vae, loss, concepts, background, counts, pairs, colours, styles, best_of, diversity, nearest"

Data = Annotated[list[Path] | None, Argument(metavar="DATA...", help="The corpus.", show_default="data/corpus")]
Known = Annotated[
    Path | None, Option(help="File of the concepts that the model was trained on, one a line.", show_default="all")
]
Quick = Annotated[
    bool,
    Option("--quick", help="Measure a few of everything. This shows that it runs, but gives no figures to compare."),
]
Seed = Annotated[int, Option(min=0, help="Seed of the pictures and of the choice of prompts.")]
Guidance = Annotated[float | None, Option(min=0, max=20, help="1: off.", show_default="the checkpoint's")]
Temperature = Annotated[float | None, Option(min=0, max=5, show_default="the checkpoint's")]
TopK = Annotated[int | None, Option(min=0, help="0: all.", show_default="the checkpoint's")]
TopP = Annotated[float | None, Option(min=0, max=1, help="1: all.", show_default="the checkpoint's")]
Revise = Annotated[bool, Option("--revise/--no-revise", help="Revise the prompts if the checkpoint has a reviser.")]


def measure(
    data: Data = None,
    known: Known = None,
    out: Annotated[Path, Option("-o", "--out", help="Folder of the results, and of pictures kept.")] = Path(
        "runs/evaluation"
    ),
    parts: Annotated[str, Option(help=f"Some of {PART_NAMES}.", show_default="all")] = PART_NAMES,
    concepts: Annotated[
        int | None, Option(min=2, help="How many things the judge has to tell apart.", show_default="500")
    ] = None,
    compositions: Annotated[
        int | None,
        Option(min=2, help="How many prompts for each of backgrounds, counts and pairs.", show_default="200"),
    ] = None,
    prompts: Annotated[
        Path | None, Option(help="File of prompts for the concepts, one a line.", show_default="each thing's name")
    ] = None,
    held_out: Annotated[Path, Option(help="Folder of drawings by a vendor that was never trained on.")] = Path(
        "data/eval"
    ),
    quick: Quick = False,
    seed: Seed = 0,
    guidance: Guidance = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    revise: Revise = True,
    weights: Weights = WEIGHTS,
    device: Device = "auto",
) -> None:
    """Measure both stages. Writes OUT/sheet.png, report.json and report.md. The last line on stdout is JSON.

    Painted pictures are kept. If a run was stopped, the same command goes on with it.
    """
    from model.recipes.default.evaluation import PARTS, evaluate, markdown, sheet, table, to_json

    names = [name for name in parts.replace(",", " ").split() if name]
    if unknown := sorted(set(names) - set(PARTS)):
        raise typer.BadParameter(f"{', '.join(unknown)}: the parts are {PART_NAMES}", param_hint="--parts")
    if not names:
        raise typer.BadParameter(f"names no part of {PART_NAMES}", param_hint="--parts")
    changes = {"concepts": concepts, "compositions": compositions, "seed": seed, "guidance": guidance, "revise": revise}
    options = _options(quick, **changes, temperature=temperature, top_k=top_k, top_p=top_p)
    console = Console(stderr=True)
    painter = _load(weights, device, console)
    with _bar(console) as progress:
        report = evaluate(
            painter,
            _corpus(data),
            out,
            options,
            parts=names,
            prompts=prompts,
            held_out=held_out,
            known=known,
            progress=progress,
        )
    text = to_json(report)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(text + "\n")
    (out / "report.md").write_text(markdown(report.findings))
    if report.findings.sections:
        sheet(report.findings.sections).save(out / "sheet.png")
    _print(table(report.findings), [f"{name}: {why}" for name, why in report.findings.reasons.items()])
    typer.echo(out)
    typer.echo(text)


def sweep(
    data: Data = None,
    known: Known = None,
    out: Annotated[Path, Option("-o", "--out", help="Folder of the results, and of pictures kept.")] = Path(
        "runs/evaluation"
    ),
    things: Annotated[int | None, Option(min=2, help="How many things are asked for.", show_default="50")] = None,
    pictures: Annotated[int, Option(min=2, help="How many pictures of each thing are painted for each setting.")] = 2,
    grid: Annotated[
        list[str] | None,
        Option(
            "--try",
            help="Values to try, as NAME=VALUE,VALUE... Repeat it; parameters are tried in this order.",
            show_default="all four",
        ),
    ] = None,
    quick: Quick = False,
    seed: Annotated[
        int, Option(min=0, help="Seed. It differs from the evaluation's, so that the choice is not tuned to that.")
    ] = 1,
    guidance: Guidance = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    revise: Revise = True,
    weights: Weights = WEIGHTS,
    device: Device = "auto",
) -> None:
    """Find the best sampling parameters. Writes OUT/sweep.png. The last line on stdout is JSON with the choice."""
    from model.recipes.default.evaluation import sweep as search

    wanted = _grid(grid) if grid else search.GRID
    changes = {"various": things, "seeds": pictures, "seed": seed, "guidance": guidance, "revise": revise}
    options = _options(quick, **changes, temperature=temperature, top_k=top_k, top_p=top_p)
    console = Console(stderr=True)
    painter = _load(weights, device, console)
    with _bar(console) as progress:
        found = search.sweep(painter, _corpus(data), out, options, grid=wanted, known=known, progress=progress)
    search.plot(found, out / "sweep.png")
    text = search.to_json(found)
    (out / "sweep.json").write_text(text + "\n")
    _print(search.table(found), [])
    typer.echo(out / "sweep.png")
    flags = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in found.chosen.items())
    typer.echo(f"dalle-server export ... {flags}")
    typer.echo(text)


def _grid(given: list[str]) -> dict[str, tuple[float, ...]]:
    """["guidance=1,3"] -> {"guidance": (1.0, 3.0)}."""
    from model.recipes.default.evaluation.sweep import GRID

    grid: dict[str, tuple[float, ...]] = {}
    for text in given:
        name, _, values = text.partition("=")
        name = name.replace("-", "_")
        try:
            grid[name] = tuple(float(value) for value in values.split(","))
        except ValueError:
            grid[name] = ()
        if name not in GRID or not grid[name]:
            meant = f"NAME=VALUE,VALUE... with a name of {', '.join(GRID)}"
            raise typer.BadParameter(f"must be {meant}, got {text}", param_hint="--try")
    return grid


def _options(quick: bool, **changes: float | None) -> Options:
    from model.recipes.default.evaluation import QUICK, Options

    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(QUICK if quick else Options(), **given)  # type: ignore[arg-type]


def _load(weights: Path, device: str, console: Console) -> Painter:
    with console.status("loading"):
        from model.painter import load

        painter = load(weights, device)
    if painter.device.type == "cuda":
        painter.slots = GPU_SLOTS
    return painter


def _corpus(data: list[Path] | None) -> list[Path]:
    return data or [Path("data/corpus")]


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr, or lines if stderr is no terminal. Yields the function that moves it.

    The function's arguments: what is being done, how much of it is done, and how much there is.
    """
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console, transient=True) as bars:
        task = bars.add_task("starting", total=None)
        shown, said = [""], [0.0]

        def progress(what: str, done: int, total: int) -> None:
            if shown != [what]:
                shown[:] = [what]
                bars.reset(task, total=total, description=what)
            bars.update(task, completed=done, total=total)
            if not console.is_terminal and time.monotonic() - said[0] > SECONDS_A_LINE:
                said[0] = time.monotonic()
                console.print(f"{what}: {done} of {total}", highlight=False)

        yield progress


def _print(rows: Sequence[Sequence[str]], notes: Sequence[str]) -> None:
    head, *body = rows
    shown = Table(box=None)
    for i, name in enumerate(head):
        shown.add_column(name, justify="left" if i == 0 else "right")
    for row in body:
        shown.add_row(*row)
    console = Console(highlight=False, width=200)
    console.print(shown)
    for note in notes:
        console.print(f"not measured: {note}", style="dim", markup=False)
