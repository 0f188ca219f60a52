"""`python -m model.recipes.default`: the stages of the recipe, and the commands that only the recipe has."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from model.config import TRANSFORMER_PRESETS
from model.errors import DalleError
from model.inference.cores import settle_threads, usable_cores
from model.recipes.default.commands import corpus, gallery, measure, showcase, styles, things
from model.recipes.default.recipe import RECIPE, read

NAME = "python -m model.recipes.default"
STAGES, TOOLS = "Stages of the recipe", "Commands that they run, with options"  # panels of --help

app = typer.Typer(
    name=NAME,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("corpus", rich_help_panel=TOOLS)(corpus.corpus)
app.command("measure", rich_help_panel=TOOLS)(measure.measure)
app.command("sweep", rich_help_panel=TOOLS)(measure.sweep)
app.command("styles", rich_help_panel=TOOLS)(styles.styles)
app.command("gallery", rich_help_panel=TOOLS)(gallery.gallery)
app.command("things", rich_help_panel=TOOLS)(things.things)
app.command("showcase", rich_help_panel=TOOLS)(showcase.showcase)

Names = Annotated[
    list[str] | None,
    Argument(
        metavar="NAME...", help="Names of the stage's commands to run.", show_default="the first ones of recipe.toml"
    ),
]
DryRun = Annotated[bool, Option("--dry-run", help="Print the commands and run none.")]
Recipe = Annotated[Path, Option(help="Another file of commands.", show_default="recipe.toml beside this code")]


@app.callback()
def options() -> None:
    """Make and measure weights/default by the commands of recipe.toml. Run it in the repository's root."""


@app.command("build", rich_help_panel=STAGES)
def build(names: Names = None, dry_run: DryRun = False, recipe: Recipe = RECIPE) -> None:
    """Make the corpora: corpus, outlined, taught, coloured, styled, drawings, eval. One that exists stays."""
    _run("build", names, dry_run, recipe)


@app.command("train", rich_help_panel=STAGES)
def train(
    names: Names = None,
    preset: Annotated[
        str | None,
        Option(help=f"For the stages that know it: {', '.join(TRANSFORMER_PRESETS)}.", show_default="the recipe's"),
    ] = None,
    dry_run: DryRun = False,
    recipe: Recipe = RECIPE,
) -> None:
    """Train: scratch, decoder, on. If it was stopped, the same command goes on."""
    if preset is not None and preset not in TRANSFORMER_PRESETS:
        raise typer.BadParameter(f"{preset} is none of {', '.join(TRANSFORMER_PRESETS)}", param_hint="--preset")
    _run("train", names, dry_run, recipe, preset)


@app.command("evaluate", rich_help_panel=STAGES)
def evaluate(names: Names = None, dry_run: DryRun = False, recipe: Recipe = RECIPE) -> None:
    """Measure weights/default: figures, best_of, sampling."""
    _run("evaluate", names, dry_run, recipe)


@app.command("sheets", rich_help_panel=STAGES)
def sheets(names: Names = None, dry_run: DryRun = False, recipe: Recipe = RECIPE) -> None:
    """Paint the model card's sheets: all."""
    _run("sheets", names, dry_run, recipe)


def _run(stage: str, names: list[str] | None, dry_run: bool, recipe: Path, preset: str | None = None) -> None:
    """Print the commands, and run them one after another up to the first that fails."""
    known = read(recipe).get(stage, {})
    if unknown := [name for name in names or () if name not in known]:
        raise typer.BadParameter(f"{', '.join(unknown)}: {stage} has {', '.join(known)}", param_hint="NAME")
    for name in names or list(known)[:1]:
        for step in known[name]:
            chosen = step.with_preset(preset) if preset else step
            if not dry_run and stage == "build" and (Path(str(step.options.get("out"))) / "manifest.json").exists():
                typer.echo(f"{step.options['out']}: is there already", err=True)
                continue
            typer.echo(str(chosen), err=not dry_run)
            if not dry_run and (status := chosen.run()):
                raise typer.Exit(status)


def main() -> None:
    """Run the command line on sys.argv. An error that a person can mend is one line on stderr and exit status 1."""
    settle_threads()
    # OpenMP reads this when torch is loaded. A container may have fewer cores than OpenMP would count.
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    try:
        app()
    except DalleError as error:
        typer.echo(f"{NAME}: {error}", err=True)
        sys.exit(1)
