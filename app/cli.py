"""The command line: `dalle-server serve | generate | reconstruct | inspect | corpus | train | evaluate | export | ...`.

    dalle-server generate "a red apple" -n 4 --out apple.png

An error that a person can mend gives one line on stderr and exit status 1. A wrong flag gives exit status 2. A training
run that a signal ended gives 128 and the signal's number.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import model
from model.errors import DalleError, TrainingStopped
from model.inference.cores import settle_threads, usable_cores
from model.limits import printable

if TYPE_CHECKING:
    import typer

# Name of a command -> its module in `app.commands`, and what of it is the command, or a group of commands.
COMMANDS = {
    "serve": ("serve", "serve"),
    "generate": ("generate", "generate"),
    "caption": ("caption", "caption"),
    "reconstruct": ("reconstruct", "reconstruct"),
    "inspect": ("inspect", "inspect"),
    "import": ("import_", "import_"),
    "corpus": ("corpus", "app"),
    "train": ("train", "app"),
    "export": ("export", "export"),
    "evaluate": ("evaluate", "evaluate"),
    "bench": ("bench", "bench"),
    "key": ("key", "key"),
}


def program(names: Iterable[str] = tuple(COMMANDS)) -> typer.Typer:
    """The command line with these commands. Nothing is imported for the others."""
    import typer

    made = typer.Typer(
        name="dalle-server",
        help="Text to image with the DALL-E family's method: a server and the tools for its models.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"dalle-server {model.__version__}")
            raise typer.Exit

    shown = typer.Option("--version", help="Show the version.", callback=version, is_eager=True)

    def options(_: bool = False) -> None:
        """Text to image with the DALL-E family's method: a server and the tools for its models."""

    options.__annotations__["_"] = Annotated[bool, shown]
    made.callback()(options)
    for name in names:
        module, attribute = COMMANDS[name]
        imported = importlib.import_module(f"app.commands.{module}")
        found = getattr(imported, attribute)
        if isinstance(found, typer.Typer):
            made.add_typer(found, name=name)
        else:
            made.command(name, cls=getattr(found, "kind", None), epilog=getattr(imported, "EPILOG", None))(found)
    return made


def __getattr__(name: str) -> Any:
    """`app` is the whole command line."""
    if name == "app":
        return globals().setdefault("app", program())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line on sys.argv."""
    settle_threads()
    # OpenMP reads this when torch is loaded. A container may have fewer cores than OpenMP would count.
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text, and not every terminal shows all
        sys.stdout.reconfigure(errors="backslashreplace")
    asked = sys.argv[1:2]
    try:
        (program(asked) if asked and asked[0] in COMMANDS else program())()
    except TrainingStopped as stop:
        sys.stderr.write(f"dalle-server: {stop}\n")
        sys.exit(128 + stop.signal)  # as a shell says it
    except DalleError as error:
        sys.stderr.write(f"dalle-server: {printable(error)}\n")
        sys.exit(1)
    except OSError as error:  # of the world outside, such as a full disk; faults of ours raise others
        sys.stderr.write(f"dalle-server: {printable(_told(error))}\n")
        sys.exit(1)


def _told(error: OSError) -> str:
    """What went wrong, and with which file, in one line."""
    why = "no space is left on its disk" if error.errno == errno.ENOSPC else error.strerror or str(error)
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return f"{' -> '.join(names) or 'a file, or /dev/shm'}: {why}"
