"""Where settings come from: flags of the command line, then DALLE_* variables, then defaults.

    settings = load_settings(port=8080)  # an argument wins over the environment

The server does not start with a value that it cannot use, or with a DALLE_* variable that it does not know. One line
names the variable or the flag.
"""

from __future__ import annotations

import os
from typing import Any

from pydantic import AliasChoices, ValidationError

from app.environment import environment, is_address
from app.settings import PREFIX, Settings, SettingsError
from app.wording import describe, nearest


class FlagError(SettingsError):
    """A setting that cannot be used, whose value came from a flag of the command line."""


def unused_host(settings: Settings) -> str | None:
    """The value of the variable HOST if it is ignored because it is not an address. None if it is not ignored."""
    host = os.environ.get("HOST")
    return host if host and "host" not in settings.model_fields_set and not is_address(host) else None


def variables(name: str) -> tuple[str, ...]:
    """The variables that fill the setting `name`. The first one that is set counts."""
    alias = Settings.model_fields[name].validation_alias
    return tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (PREFIX + name.upper(),)


def shown(value: object) -> str:
    """A default, written for people."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        value = ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str("none" if value in ("", None) else value)


def load_settings(**flags: Any) -> Settings:
    """The settings of this process. A flag wins over a variable, and a variable over the default. A flag of None is not
    given.

    Raises SettingsError, and FlagError if the value came from a flag.
    """
    given = {name: value for name, value in flags.items() if value not in (None, [], ())}
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    environ = environment()
    for name in sorted(environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = nearest(name.upper().removeprefix(PREFIX), Settings.model_fields)
            hint = f"did you mean {PREFIX}{near.upper()}?" if near else "`dalle-server serve --help` lists the settings"
            raise SettingsError(f"{name} is not a setting; {hint}")
    try:
        return Settings(**given)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = str(fault["loc"][0]).lower().removeprefix(PREFIX.lower())
        if not Settings.model_fields[field].repr:
            fault["input"] = "***"
        if field in given:
            raise FlagError(describe(Settings, {**fault, "loc": (field,)}, f"--{field.replace('_', '-')}")) from None
        upper = {name.upper(): name for name in environ}
        name = next((upper[name] for name in variables(field) if name in upper), field)
        raise SettingsError(describe(Settings, {**fault, "loc": (field,)}, name)) from None
