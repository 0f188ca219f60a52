"""Every setting of the server: one frozen class, filled from DALLE_* variables; flags of the command line override.

    settings = load_settings(port=8080)  # what is passed wins over the environment

A value that cannot be used, and a DALLE_* variable that means nothing, stop the start with one line that names them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.wording import describe
from model.errors import DalleError

PREFIX = "DALLE_"
MAX_IMAGES = 10  # pictures of one request
# What Kubernetes sets in every container beside a service of the name dalle-something: no settings, nobody's mistake.
SERVICE_LINK = re.compile(r"DALLE_\w+_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP)\w*)?)")


class SettingsError(DalleError):
    """A setting that cannot be used. The message is one line naming the variable, or the flag, and its value."""


def _setting(panel: str, default: object, description: str, **limits: Any) -> Any:
    """A field. panel: under which heading `dalle-server serve --help` shows its flag. limits: as Field takes them."""
    return Field(default=default, description=description, json_schema_extra={"panel": panel}, **limits)


class FlagError(SettingsError):
    """The value came from a flag of the command line."""


class Settings(BaseSettings):
    """How this server runs. The variable of a field is DALLE_ and its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        allow_inf_nan=False,
        env_ignore_empty=True,
    )

    host: str = _setting(
        "Where to listen",
        "127.0.0.1",
        "address to listen on; 0.0.0.0 lets other machines in",
        min_length=1,
        validation_alias=AliasChoices("DALLE_HOST", "HOST"),
    )
    port: int = _setting(
        "Where to listen",
        8000,
        "port to listen on; 0 takes a free one and prints it",
        ge=0,
        le=65535,
        validation_alias=AliasChoices("DALLE_PORT", "PORT"),
    )

    weights: Path = _setting("Model", Path("weights/default"), "folder of the checkpoint to serve")
    device: str = _setting(
        "Model",
        "auto",
        "auto, cpu, cuda or cuda:0; several, as cuda:0,cuda:1, get a worker process each",
        pattern=r"^(auto|cpu|cuda(:\d+)?(,cuda:\d+)*)$",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = _setting(
        "Model", "auto", "number format of the model on its device; auto: bfloat16 on CUDA, float32 on the CPU"
    )
    slots: int = _setting("Model", 16, "rows painted at once by a worker; a guided picture takes two", ge=2, le=1024)
    threads: int = _setting("Model", 0, "threads of a worker's arithmetic; 0: the cores it may use", ge=0, le=1024)
    strict: bool = _setting("Model", True, "a picture is bit-equal alone and in a crowd")
    truncate: bool = _setting("Model", False, "cut a prompt that is too long instead of refusing it")
    revise: bool = _setting("Model", True, "say prompts in words that the model was taught, where it has a reviser")

    queue: int = _setting(
        "Queue and time",
        128,
        "pictures accepted and not yet painted, at most; beyond it 503",
        ge=MAX_IMAGES,
        le=100_000,
    )
    client_queue: int = _setting(
        "Queue and time",
        0,
        "of these, the share of one client, an address or an API key; beyond it 429; 0: no limit",
        ge=0,
        le=100_000,
    )
    deadline: float = _setting(
        "Queue and time",
        600.0,
        "seconds a request may take, then 504; X-Request-Timeout asks for fewer",
        gt=0,
        le=86_400,
    )
    drain: float = _setting("Queue and time", 30.0, "seconds that accepted work gets after SIGTERM", ge=0, le=3600)
    keep_alive: float = _setting(
        "Queue and time",
        15.0,
        "seconds without news after which a stream sends a comment; proxies cut at 60",
        ge=0.5,
        le=3600,
    )
    send_timeout: float = _setting(
        "Queue and time",
        60.0,
        "seconds that a client gets to take each MiB of its answer, and the rest of it; then it is cut",
        ge=1,
        le=3600,
    )

    api_keys: str = _setting(
        "Who may ask",
        "",
        "SHA-256 hashes of API keys, separated by commas: `dalle-server key` makes them; with any, a key is needed",
        pattern=r"^([0-9a-f]{64}([, ]+[0-9a-f]{64})*)?$",
        repr=False,
    )
    api_keys_file: Path | None = _setting(
        "Who may ask", None, "file with such hashes, one a line, of which # begins a comment; read at the start"
    )
    cors_origins: str = _setting(
        "Who may ask",
        "",
        "origins whose pages may ask, as https://example.org,http://localhost:3000; none: only this server's own",
        pattern=r"^([a-z][a-z0-9+.-]*://[^\s,/*]+(,[a-z][a-z0-9+.-]*://[^\s,/*]+)*)?$",
    )

    answer_bytes: int = _setting(
        "Queue and time",
        256 << 20,
        "bytes of files that answers hold until they are sent, half of them for one client; beyond it answers wait, "
        "then 503, or 429 for a client that has its half",
        ge=1 << 20,
        le=1 << 40,
    )
    replay_bytes: int = _setting(
        "Queue and time",
        64 << 20,
        "bytes of pictures that are kept for 10 minutes, for requests with an Idempotency-Key; beyond it the oldest go",
        ge=0,
        le=1 << 36,
    )

    max_body: int = _setting(
        "What is read", 1 << 20, "bytes of a request's body; beyond them 413", ge=1 << 10, le=1 << 28
    )
    max_upload: int = _setting(
        "What is read", 8 << 20, "bytes of a form with pictures in it; beyond them 413", ge=1 << 10, le=1 << 28
    )
    max_pixels: int = _setting(
        "What is read",
        1 << 24,
        "pixels, by its header, of a picture that is sent; beyond them 400 or 422",
        ge=1,
        le=1 << 27,
    )

    heartbeat_timeout: float = _setting(
        "Workers", 8.0, "seconds without a step after which a worker counts as hung and is replaced", ge=1, le=600
    )
    start_timeout: float = _setting("Workers", 600.0, "seconds a worker may take to load and warm up", ge=1, le=86_400)

    log: Literal["plain", "json"] = _setting("Log", "plain", "form of the log lines")
    log_level: Literal["debug", "info", "warning", "error"] = _setting("Log", "info", "least level that is logged")

    @field_validator("weights", "api_keys_file")
    @classmethod
    def _expand(cls, path: Path | None) -> Path | None:
        return path and path.expanduser()

    @property
    def devices(self) -> tuple[str, ...]:
        """One entry a worker process."""
        return tuple(self.device.split(","))

    @property
    def origins(self) -> tuple[str, ...]:
        """Those of cors_origins."""
        return tuple(filter(None, self.cors_origins.split(",")))


def variables(name: str) -> tuple[str, ...]:
    """The variables that fill the setting `name`, the first one that is set counts."""
    alias = Settings.model_fields[name].validation_alias
    return tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (PREFIX + name.upper(),)


def shown(value: object) -> str:
    """A default, for people."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str("none" if value in ("", None) else value)


def load_settings(**flags: Any) -> Settings:
    """The settings of this process: defaults, then the environment, then `flags` (None: not given).

    Raises SettingsError, of a flag FlagError.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known and not SERVICE_LINK.fullmatch(name):
            raise SettingsError(f"{name}: no such setting; known are {', '.join(sorted(known))}")
    try:
        return Settings(**given)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = str(fault["loc"][0]).lower().removeprefix(PREFIX.lower())
        if not Settings.model_fields[field].repr:
            fault["input"] = "(not shown)"
        if field in given:
            raise FlagError(describe(Settings, {**fault, "loc": (field,)}, f"--{field.replace('_', '-')}")) from None
        upper = {name.upper(): name for name in os.environ}
        name = next((upper[name] for name in variables(field) if upper.get(name)), field)
        raise SettingsError(describe(Settings, {**fault, "loc": (field,)}, name)) from None
