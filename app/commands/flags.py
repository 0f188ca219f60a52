"""Makes the flags of a command from an options' dataclass. Some knobs get a flag, and `--set NAME=VALUE` sets the rest.

    @with_knobs(VAEOptions, flags=("out", "steps"))
    def train(given: Given) -> None: ...

has the flags --out, --steps and --set, and passes `given` on to `build`.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.markup import escape
from typer import Argument, Option
from typer.core import TyperCommand

from app.commands.common import utf8
from model.errors import InvalidRequest
from model.training.knobs import Knob, knobs, parse, parse_settings

KINDS = {int: "INTEGER", float: "NUMBER", bool: "true|false", Path: "PATH", str: "TEXT"}
NAMES = {"out": ("-o", "--out"), "prompts": ("--prompt",)}  # flags that are not named as their knobs

Given = Mapping[str, Any]  # the values of those knobs that were given, by name

Data = Annotated[
    list[Path],
    Argument(
        metavar="DATA...",
        help="Folders of pictures with captions, or tar shards. Index files among them give captions to the pictures.",
    ),
]


def with_knobs(*options: type, flags: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take the knobs of these dataclasses. Its parameter `given` gets the values that the user gave.

    flags: the knobs that have a flag. `--set` takes the others, and `--set help` prints them.
    """
    known = {name: knob for cls in options for name, knob in knobs(cls).items()}
    flagged = {name: known[name] for name in flags}
    rest = {name: knob for name, knob in known.items() if name not in flagged}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name == "given":
                parameters += map(_flag, flagged.values())
            else:
                parameters.append(parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY))
        parameters.append(_set(rest, flagged))

        @functools.wraps(command)
        def run(**values: Any) -> None:
            given = {name: _value(knob, values.pop(name)) for name, knob in flagged.items()}
            given |= parse_settings(values.pop("set_") or [], rest)
            command(given={name: value for name, value in given.items() if value is not None}, **values)

        del run.__wrapped__  # what follows is its true signature
        vars(run)["__signature__"] = inspect.Signature(parameters)
        vars(run).update(rest=frozenset(rest), kind=KnobCommand)
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


class KnobCommand(TyperCommand):
    """A command of `with_knobs`. Who writes a knob without a flag as a flag is told how it is set."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            option = str(getattr(error, "option_name", ""))
            name = option.lstrip("-").replace("-", "_")
            if name not in vars(self.callback).get("rest", ()):
                raise
            raise typer.BadParameter(f"{option} is not a flag; say --set {name}=VALUE") from None


def _value(knob: Knob, value: Any) -> Any:
    """The knob's value that the flag was given. None if the flag was not given."""
    if knob.kind is bool:
        return (not knob.off) if value else None
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str):
            utf8(text)
    if knob.kind is tuple:
        return tuple(value) if value else None
    return value


def _flag(knob: Knob) -> inspect.Parameter:
    """The flag of a knob. A bool becomes a switch. Texts become an option that may be repeated."""
    names = _names(knob)
    kind: Any = str | None
    default: Any = None
    more: dict[str, Any] = {}
    if knob.kind is bool:
        kind, default = bool, False
    elif knob.kind is tuple:
        kind, more = list[str] | None, {"show_default": knob.default_text}
    else:
        more = {"parser": functools.partial(_parse, knob), "metavar": KINDS[knob.kind], "show_default": False}
    meaning = knob.off[1] if knob.off else knob.help
    if knob.kind is tuple:
        meaning += " Repeat it for several."
    elif knob.kind is not bool:
        facts = "; ".join(filter(None, (_limits(knob), f"default: {knob.default_text}")))
        meaning = f"{escape(meaning)} [dim]{escape(f'[{facts}]')}[/dim]"
    annotation = Annotated[kind, Option(*names, help=meaning, **more)]
    return inspect.Parameter(knob.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _parse(knob: Knob, text: str) -> Any:
    try:
        return parse(knob, text)
    except InvalidRequest as error:
        raise typer.BadParameter(str(error)) from None


def _limits(knob: Knob) -> str:
    """What the value must be, beyond its type."""
    limited = knob.choices or knob.ge is not None or knob.le is not None
    return knob.allowed.removeprefix("a number ").removeprefix("an integer ").removeprefix("of ") if limited else ""


def _set(rest: Mapping[str, Knob], flagged: Mapping[str, Knob]) -> inspect.Parameter:
    """The option that sets every other knob."""

    def check(texts: list[str] | None) -> list[str] | None:
        if "help" in (texts or ()):
            typer.echo("\n\n".join(map(_told, rest.values())))
            raise typer.Exit
        for name in (text.partition("=")[0].replace("-", "_") for text in texts or ()):
            if name in flagged:
                raise typer.BadParameter(f"{name} has a flag of its own: {_names(flagged[name])[-1]}")
        try:
            parse_settings(texts or [], rest)
        except InvalidRequest as error:
            raise typer.BadParameter(str(error)) from None
        return texts

    option = Option(
        "--set",
        metavar="NAME=VALUE",
        help="Set another knob. Repeat it for several. `--set help` prints them all.",
        callback=check,
        is_eager=True,
        show_default=False,
    )
    annotation = Annotated[list[str] | None, option]
    return inspect.Parameter("set_", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _names(knob: Knob) -> tuple[str, ...]:
    """The names of a knob's flag."""
    if knob.off:
        return (f"--{knob.off[0]}",)
    return NAMES.get(knob.name, (f"--{knob.name.replace('_', '-')}",))


def _told(knob: Knob) -> str:
    """A knob as `--set help` prints it: its name, the values that it may have and its default, then its help."""
    meaning = textwrap.fill(knob.help, 100, initial_indent="    ", subsequent_indent="    ")
    return f"{knob.name}: {knob.allowed} [default: {knob.default_text}]\n{meaning}"
