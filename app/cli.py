"""The command line: `dalle-server serve | generate | reconstruct | inspect | corpus | train | evaluate | export | ...`.

    dalle-server generate "a red apple" -n 4 --out apple.png

An error that a person can mend gives one line on stderr and exit status 1. A wrong flag gives exit status 2. A training
run that a signal ended gives 128 and the signal's number.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Annotated

import typer

import model
from app.commands import (
    bench,
    caption,
    corpus,
    evaluate,
    export,
    generate,
    import_,
    inspect,
    key,
    reconstruct,
    serve,
    train,
)
from model.errors import DalleError, TrainingStopped
from model.inference.cores import settle_threads, usable_cores
from model.limits import printable

app = typer.Typer(
    name="dalle-server",
    help="Text to image with the DALL-E family's method: a server and the tools for its models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("generate")(generate.generate)
app.command("caption")(caption.caption)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("inspect")(inspect.inspect)
app.command("import")(import_.import_)
app.add_typer(corpus.app, name="corpus")
app.add_typer(train.app, name="train")
app.command("export")(export.export)
app.command("evaluate")(evaluate.evaluate)
app.command("bench")(bench.bench)
app.command("key")(key.key)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dalle-server {model.__version__}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)] = False,
) -> None:
    """Text to image with the DALL-E family's method: a server and the tools for its models."""


def main() -> None:
    """Run the command line on sys.argv."""
    settle_threads()
    # OpenMP reads this when torch is loaded. A container may have fewer cores than OpenMP would count.
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text, and not every terminal shows all
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except TrainingStopped as stop:
        typer.echo(f"dalle-server: {stop}", err=True)
        sys.exit(128 + stop.signal)  # as a shell says it
    except DalleError as error:
        typer.echo(f"dalle-server: {printable(error)}", err=True)
        sys.exit(1)
    except OSError as error:  # of the world outside, such as a full disk; faults of ours raise others
        typer.echo(f"dalle-server: {printable(_told(error))}", err=True)
        sys.exit(1)


def _told(error: OSError) -> str:
    """What went wrong, and with which file, in one line."""
    why = "no space is left on its disk" if error.errno == errno.ENOSPC else error.strerror or str(error)
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return f"{' -> '.join(names) or 'a file, or /dev/shm'}: {why}"
