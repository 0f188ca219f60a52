"""`dalle-server serve` runs the HTTP service. Its flags are made from the fields of `app.settings.Settings`."""

from __future__ import annotations

import inspect
import logging
import sys
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from rich.markup import escape
from typer import Option

from app.commands.signals import ending_at_sigterm
from app.load_settings import FlagError, load_settings, shown, variables
from app.pool.early import start_early
from app.settings import Settings
from app.wording import allowed
from model.errors import DalleError

KINDS = {"integer": "INTEGER", "number": "NUMBER", "string": "TEXT", "path": "PATH", "array": "TEXT"}


def serve(**flags: str | bool | list[str] | None) -> None:
    """Serve pictures over HTTP. Every setting is a variable of the environment. A flag wins over its variable."""
    try:
        settings = load_settings(**flags)
    except FlagError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        with ending_at_sigterm():
            _serve(settings)
    except DalleError as error:
        if settings.log != "json":
            raise
        logging.getLogger("dalle.server").error("%s", error)
        sys.exit(1)


def _serve(settings: Settings) -> None:
    if settings.ray:
        from app.ray import serve_by_ray

        serve_by_ray(settings)
    else:
        early = [start_early(f"worker-{device}") for device in settings.devices]
        try:
            from app import server  # takes a second, in which the workers import PyTorch

            server.serve(settings, early)
        finally:
            for worker in early:
                worker.kill()


def _facts(name: str, field: FieldInfo, schema: dict[str, Any]) -> str:
    """What the value of a setting may be, its default, and its variables."""
    switch = field.annotation is bool
    kind = _plain(schema)["type"]
    limits = "" if switch or "form" in schema else allowed(schema).removeprefix(f"an {kind} ")
    limits = limits.removeprefix(f"a {kind} ").removeprefix("a text")
    return "; ".join(filter(None, (limits, f"default: {shown(field.default)}", ", ".join(variables(name)))))


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without the None that the value may also be."""
    found: dict[str, Any] = schema.get("anyOf", [schema])[0]
    return found


def _parameter(name: str, field: FieldInfo, schema: dict[str, Any]) -> inspect.Parameter:
    """The flag of a setting. Its value stays a string, as a variable's does. The settings class checks both."""
    dashed = name.replace("_", "-")
    switch = field.annotation is bool
    plain = _plain(schema)
    option = Option(
        f"--{dashed}/--no-{dashed}" if switch else f"--{dashed}",
        help=f"{escape(str(field.description))} [dim]{escape(f'[{_facts(name, field, schema)}]')}[/dim]",
        show_default=False,
        metavar=None if switch else KINDS[plain.get("format", plain["type"])],
        rich_help_panel=schema["panel"],
    )
    kind: Any = bool if switch else list[str] if plain["type"] == "array" else str
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _told(name: str, field: FieldInfo, schema: dict[str, Any]) -> str:
    """What --help says of a setting without a flag."""
    variable, *_ = variables(name)
    facts = _facts(name, field, schema).removesuffix(f"; {variable}")
    return f"[bold]{variable}[/bold]  {escape(str(field.description))} [dim]{escape(f'[{facts}]')}[/dim]"


_schema = Settings.model_json_schema(by_alias=False)["properties"]
_fields = [(name, field, _schema[name]) for name, field in Settings.model_fields.items()]
serve.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [_parameter(*setting) for setting in _fields if "panel" in setting[2]]
)
# The end of --help.
EPILOG = "\n\n".join(
    ["Variables without a flag:", *(_told(*setting) for setting in _fields if "panel" not in setting[2])]
)
