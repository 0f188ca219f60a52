"""`dalle-server serve` runs the HTTP service. Every field of `app.settings.Settings` is a flag."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from rich.markup import escape
from typer import Option

from app.commands.signals import ending_at_sigterm
from app.pool.early import start_early
from app.settings import FlagError, Settings, load_settings, shown, variables
from app.wording import allowed

KINDS = {"integer": "INTEGER", "number": "NUMBER", "string": "TEXT", "path": "PATH", "array": "TEXT"}


def serve(**flags: str | bool | list[str] | None) -> None:
    """Serve pictures over HTTP. Every setting is a flag and a variable of the environment. The flag wins."""
    try:
        settings = load_settings(**flags)
    except FlagError as error:
        raise typer.BadParameter(str(error)) from None
    if settings.ray:
        from app.ray import serve_by_ray

        serve_by_ray(settings)
        return
    with ending_at_sigterm():
        early = [start_early(f"worker-{device}") for device in settings.devices]
        try:
            from app import server  # takes a second, in which the workers import PyTorch

            server.serve(settings, early)
        finally:
            for worker in early:
                worker.kill()


def _parameter(name: str, field: FieldInfo, schema: dict[str, Any]) -> inspect.Parameter:
    """The flag of a setting. Its value stays a string, as a variable's does. The settings class checks both."""
    dashed = name.replace("_", "-")
    switch = field.annotation is bool
    plain = schema.get("anyOf", [schema])[0]  # of a type that may be None
    limits = allowed(schema)
    several = plain["type"] == "array"
    limits = "" if switch or "form" in schema else limits.removeprefix(f"an {plain['type']} ")
    limits = limits.removeprefix(f"a {plain['type']} ").removeprefix("a text")
    facts = "; ".join(filter(None, (limits, f"default: {shown(field.default)}", ", ".join(variables(name)))))
    option = Option(
        f"--{dashed}/--no-{dashed}" if switch else f"--{dashed}",
        help=f"{escape(str(field.description))} [dim]{escape(f'[{facts}]')}[/dim]",
        show_default=False,
        metavar=None if switch else KINDS[plain.get("format", plain["type"])],
        rich_help_panel=schema["panel"],
    )
    kind: Any = bool if switch else list[str] if several else str
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


_schema = Settings.model_json_schema(by_alias=False)["properties"]
serve.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [_parameter(name, field, _schema[name]) for name, field in Settings.model_fields.items()]
)
