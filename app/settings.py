"""Every setting of the server: one frozen class, filled from DALLE_* variables; flags of the command line override.

    settings = load_settings(port=8080)  # what is passed wins over the environment

A value that cannot be used, and a DALLE_* variable that means nothing, stop the start with one line that names them.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from app.wording import describe
from model.errors import DalleError

PREFIX = "DALLE_"
MAX_IMAGES = 10  # pictures of one request
# What Kubernetes sets in every container beside a service of the name dalle, or dalle-something. DALLE_PORT is among
# it, with an address: its value tells whether it is ours.
SERVICE_LINK = re.compile(r"DALLE_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_(TCP|UDP|SCTP)\w*)")
SERVICE_PORT = re.compile(r"DALLE_(\w+_)?PORT")
SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")
ORIGIN = r"(\*|null|[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?/?)"
NAME = r"(\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?)"
DEFAULT_PORTS = {"http": ":80", "https": ":443"}  # which a browser leaves out


def _listed(item: str) -> str:
    """The pattern of a list of such items, separated by commas."""
    return rf"(?i)^\s*({item}(\s*,\s*{item})*)?\s*$"


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
        "Who may ask",
        None,
        "file with such hashes, one a line, of which # begins a comment; read at the start, and again at SIGHUP",
    )
    cors_origins: str = _setting(
        "Who may ask",
        "",
        "origins whose pages may ask, as https://example.org,http://localhost:3000; null: those opened as files; "
        "*: any; none: only this server's own",
        pattern=_listed(ORIGIN),
    )
    allowed_hosts: str = _setting(
        "Who may ask",
        "",
        "names that the header Host may hold, as dalle.example.org,*.example.org, beside localhost and IP addresses; "
        "*: any; none: any, but on a loopback address only those",
        pattern=_listed(NAME),
    )
    trusted_proxies: str = _setting(
        "Who may ask",
        "",
        "addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto count, as "
        "127.0.0.1,172.16.0.0/12",
        pattern=r"^[0-9a-fA-F:./, ]*$",
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

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for network in _items(value):
            ipaddress.ip_network(network, strict=False)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables that others set for purposes of their own are not read: see `environment`."""
        del settings_cls, dotenv_settings, file_secret_settings
        assert isinstance(env_settings, EnvSettingsSource)
        env_settings.env_vars = {name.lower(): value for name, value in environment().items()}
        return init_settings, env_settings

    @property
    def devices(self) -> tuple[str, ...]:
        """One entry a worker process."""
        return tuple(self.device.split(","))

    @property
    def origins(self) -> tuple[str, ...]:
        """Those of cors_origins, as browsers write them; "*" and "null" too."""
        found = [origin.lower().rstrip("/") for origin in _items(self.cors_origins)]
        return tuple(origin.removesuffix(DEFAULT_PORTS.get(origin.partition("://")[0], "")) for origin in found)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Those of allowed_hosts."""
        return _items(self.allowed_hosts)

    @property
    def proxies(self) -> tuple[str, ...]:
        """Networks of trusted_proxies; those of IPv4 also as a socket that listens on both kinds names them."""
        found = [ipaddress.ip_network(network, strict=False) for network in _items(self.trusted_proxies)]
        both = [f"::ffff:{one.network_address}/{96 + one.prefixlen}" for one in found if one.version == 4]
        return (*map(str, found), *both)


def _items(listed: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, listed.split(","))))


def environment() -> dict[str, str]:
    """The variables of this process that are set, without those that others set and that only look like settings.

    Those of Kubernetes, and a HOST that is no address: conda's compilers and some shells put a machine's name there.
    """
    found = {}
    for name, value in os.environ.items():
        of_kubernetes = SERVICE_LINK.fullmatch(name) or (SERVICE_PORT.fullmatch(name) and SERVICE_ADDRESS.match(value))
        if value and not of_kubernetes and (name.upper() != "HOST" or _is_address(value)):
            found[name] = value
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def unused_host(settings: Settings) -> str | None:
    """The variable HOST, where it would have said where to listen and is no address."""
    host = os.environ.get("HOST")
    return host if host and "host" not in settings.model_fields_set and not _is_address(host) else None


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
    environ = environment()
    for name in sorted(environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
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
        upper = {name.upper(): name for name in environ}
        name = next((upper[name] for name in variables(field) if name in upper), field)
        raise SettingsError(describe(Settings, {**fault, "loc": (field,)}, name)) from None
