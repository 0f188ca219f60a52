"""Every setting of the server, in one frozen class. DALLE_* variables fill it. Flags of the command line override them.

    settings = load_settings(port=8080)  # an argument wins over the environment

The server does not start with a value that it cannot use, or with a DALLE_* variable that it does not know. One line
names the variable.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from app.environment import environment, is_address
from app.wording import describe, nearest
from model.errors import DalleError
from model.files import SHIPPED, find

PREFIX = "DALLE_"
MAX_IMAGES = 10  # pictures of one request
ORIGIN = r"(\*|null|[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?/?)"
NAME = r"(\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?)"
MODEL = r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}"  # a model's name in requests
NAMED = re.compile(rf"({MODEL})=(.+)", re.DOTALL)
DEFAULT_PORTS = {"http": ":80", "https": ":443"}  # a browser leaves them out of an origin


def _listed(item: str) -> str:
    """The pattern of a list of such items, separated by commas."""
    return rf"(?i)^\s*({item}(\s*,\s*{item})*)?\s*$"


class SettingsError(DalleError):
    """A setting that cannot be used. The message is one line naming the variable, or the flag, and its value."""


def _split(value: object) -> object:
    """The items of a list with commas, or of several such lists. The path of a folder that exists is one item."""
    lists = value if isinstance(value, list | tuple) else (value,)
    items: list[str] = []
    for one in lists:
        if isinstance(one, Path) or (isinstance(one, str) and find(Path(one).expanduser()).is_dir()):
            items.append(str(one))
        elif isinstance(one, str):
            items += _items(one)
        else:
            return value
    return tuple(items)


Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


def _setting(panel: str, default: object, description: str, form: str = "", **limits: Any) -> Any:
    """A field.

    panel: the heading under which `dalle-server serve --help` shows its flag. form: in words, what a value with a
    pattern must be. limits: as Field takes them.
    """
    extra: dict[str, Any] = {"panel": panel, **({"form": form} if form else {})}
    return Field(default=default, description=description, json_schema_extra=extra, **limits)


class FlagError(SettingsError):
    """A setting that cannot be used, whose value came from a flag of the command line."""


class Settings(BaseSettings):
    """How this server runs. The variable of a field is named DALLE_ and the field's name in capitals."""

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
        "Address to listen on. 0.0.0.0 lets other machines connect.",
        min_length=1,
        validation_alias=AliasChoices("DALLE_HOST", "HOST"),
    )
    port: int = _setting(
        "Where to listen",
        8000,
        "Port to listen on. With 0 the server takes a free port and prints it.",
        ge=0,
        le=65535,
        validation_alias=AliasChoices("DALLE_PORT", "PORT"),
    )

    weights: Listed = _setting(
        "Model",
        (str(SHIPPED),),
        "Folder of the checkpoint to serve. Several models: NAME=FOLDER for each, or a folder that holds a folder for "
        "each. The first one is the default. The flag may be repeated. The variable is a list with commas.",
        "folders, or NAME=FOLDER, separated by commas",
        min_length=1,
        max_length=1000,
    )
    served_model_name: Listed = _setting(
        "Model",
        (),
        "More names by which requests may call a model: NAME for the default model, NAME=MODEL for another. With "
        "dall-e-3 and gpt-image-1 programs work that ask for these. The flag may be repeated. The variable is a list "
        "with commas.",
        "names, or NAME=MODEL, separated by commas",
        max_length=1000,
    )
    memory: int = _setting(
        "Model",
        0,
        "Bytes that the models which are loaded may take on a device. Beyond them a model is put away before another "
        "one is loaded. 0 means four fifths of the memory of the GPU, or of this machine.",
        ge=0,
        le=1 << 50,
    )
    device: str = _setting(
        "Model",
        "auto",
        "Device that paints: auto, cpu, cuda or cuda:0. Each device of a list such as cuda:0,cuda:1 gets a worker.",
        "auto, cpu, cuda, cuda:0 or a list such as cuda:0,cuda:1",
        pattern=r"^(auto|cpu|cuda(:\d+)?(,cuda:\d+)*)$",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = _setting(
        "Model", "auto", "Number format of the model. auto is bfloat16 on CUDA and float32 on the CPU."
    )
    slots: int = _setting(
        "Model",
        16,
        "Slots of a worker. A picture that is being painted takes one slot, or two with guidance.",
        ge=2,
        le=1024,
    )
    threads: int = _setting(
        "Model",
        0,
        "Threads that a worker computes with. 0 means one for each core that it may use.",
        ge=0,
        le=1024,
    )
    strict: bool = _setting("Model", True, "A picture has the same bits, whatever else is painted at the same time.")
    truncate: bool = _setting("Model", False, "Cut a prompt that has too many tokens instead of refusing it.")
    revise: bool = _setting(
        "Model", True, "Reword prompts into captions as the model was taught, if the checkpoint has a reviser."
    )
    on_unknown: Literal["paint", "refuse"] = _setting(
        "Model",
        "paint",
        "What is done with a prompt that the reviser does not know: paint, and the answer says so, or refuse with 422.",
    )

    queue: int = _setting(
        "Queue and time",
        128,
        "Pictures that may be accepted and not yet painted. A request beyond them gets 503.",
        ge=MAX_IMAGES,
        le=100_000,
    )
    client_queue: int = _setting(
        "Queue and time",
        0,
        "Pictures that one client may have among them. A client is an address or an API key. A request beyond them "
        "gets 429. 0 means no limit.",
        ge=0,
        le=100_000,
    )
    deadline: float = _setting(
        "Queue and time",
        600.0,
        "Seconds that a request may take. A request that takes longer gets 504. X-Request-Timeout asks for fewer.",
        gt=0,
        le=86_400,
    )
    drain: float = _setting(
        "Queue and time",
        30.0,
        "Seconds that accepted requests still have after SIGTERM. Then the server ends.",
        ge=0,
        le=3600,
    )
    keep_alive: float = _setting(
        "Queue and time",
        15.0,
        "Seconds without an event after which a stream sends a comment. Many proxies cut a connection that is silent "
        "for 60 seconds.",
        ge=0.5,
        le=3600,
    )
    send_timeout: float = _setting(
        "Queue and time",
        60.0,
        "Seconds that a client has to read each MiB of its answer. A slower client is disconnected.",
        ge=1,
        le=3600,
    )

    api_keys: str = _setting(
        "Who may ask",
        "",
        "SHA-256 hashes of the API keys that are let in, separated by commas. `dalle-server key` makes a key and its "
        "hash. Without hashes nobody needs a key.",
        "SHA-256 hashes of API keys, separated by commas; `dalle-server key` makes them",
        pattern=r"^([0-9a-fA-F]{64}([, ]+[0-9a-fA-F]{64})*)?$",
        repr=False,
    )
    api_keys_file: Path | None = _setting(
        "Who may ask",
        None,
        "File with such hashes, one a line. After a hash the address and the secret of a webhook may follow, which is "
        "told of the key's jobs. A # begins a comment. The server reads the file at the start and at SIGHUP.",
    )
    cors_origins: str = _setting(
        "Who may ask",
        "",
        "Origins whose web pages may send requests, such as https://example.org,http://localhost:3000. null stands for "
        "pages opened as files. * stands for every origin. Without any, only this server's own pages may.",
        "origins separated by commas, such as https://example.org,http://localhost:3000, or null or *",
        pattern=_listed(ORIGIN),
    )
    allowed_hosts: str = _setting(
        "Who may ask",
        "",
        "Names that the header Host may hold, such as dalle.example.org,*.example.org. localhost and IP addresses are "
        "always allowed. * stands for every name. Without any, every name is allowed, except on a loopback address.",
        "names without scheme and port, separated by commas, such as dalle.example.org,*.example.org, or *",
        pattern=_listed(NAME),
    )
    trusted_proxies: str = _setting(
        "Who may ask",
        "",
        "Addresses or networks of proxies, such as 127.0.0.1,172.16.0.0/12. The server believes their headers "
        "X-Forwarded-For and X-Forwarded-Proto.",
        "addresses or networks separated by commas, such as 127.0.0.1,172.16.0.0/12",
        pattern=r"^[0-9a-fA-F:./, ]*$",
    )

    root_path: str = _setting(
        "Where to listen",
        "",
        "Path before all addresses, such as /dalle, if a proxy passes it on. It may stay unset if the proxy strips it.",
        "a path such as /dalle",
        pattern=r"^((/[A-Za-z0-9._~-]+)+/?)?$",
    )
    lenient: bool = _setting(
        "What is read",
        False,
        "Where a client of the OpenAI API asks for what cannot be painted, paint what is nearest instead of refusing: "
        "for an oblong size the largest square in it, and for an edit without a mask the lower half anew.",
    )

    answer_bytes: int = _setting(
        "Queue and time",
        256 << 20,
        "Bytes of files that all answers may hold until they are sent. One client may have half of them. An answer "
        "beyond them waits for room. If it waits too long, it gets 503, or 429 if its client has its half.",
        ge=1 << 20,
        le=1 << 40,
    )
    replay_bytes: int = _setting(
        "Queue and time",
        64 << 20,
        "Bytes of pictures that are kept for 10 minutes, to answer repeated requests with an Idempotency-Key. Beyond "
        "them the oldest pictures are dropped.",
        ge=0,
        le=1 << 36,
    )

    store: Path | None = _setting(
        "Jobs and pictures",
        None,
        "Folder of the jobs and of the pictures that have an address. Without it they are in the user's state folder.",
    )
    store_database: str = _setting(
        "Jobs and pictures",
        "",
        "Database of the jobs, as SQLAlchemy writes its address, such as postgresql+psycopg://user@host/dalle. Several "
        "servers may share one. Without it a SQLite file in the store's folder serves this machine.",
        repr=False,
    )
    store_pictures: str = _setting(
        "Jobs and pictures",
        "",
        "Place of the pictures, as fsspec writes its address: a shared folder, or s3://bucket/pictures. Without it "
        "they are in the store's folder.",
    )
    keep_days: float = _setting(
        "Jobs and pictures",
        7.0,
        "Days that an ended job and its pictures are kept. A picture that nobody has fetched is kept twice as long.",
        gt=0,
        le=3650,
    )
    keep_pictures: int = _setting(
        "Jobs and pictures",
        100_000,
        "Pictures of ended jobs that are kept at most. Beyond them those go that were fetched, the oldest first, and "
        "then the others.",
        ge=0,
        le=10**9,
    )
    keep_bytes: int = _setting(
        "Jobs and pictures",
        20 << 30,
        "Bytes of pictures of ended jobs that are kept at most.",
        ge=0,
        le=1 << 50,
    )
    private_webhooks: bool = _setting(
        "Jobs and pictures",
        False,
        "Let webhooks lead to this machine and to private networks, and by http.",
    )

    max_body: int = _setting(
        "What is read", 1 << 20, "Bytes that a request's body may have. A larger one gets 413.", ge=1 << 10, le=1 << 28
    )
    max_upload: int = _setting(
        "What is read", 8 << 20, "Bytes that a form with files may have. A larger one gets 413.", ge=1 << 10, le=1 << 28
    )
    max_pixels: int = _setting(
        "What is read",
        1 << 24,
        "Pixels that a picture in a request may have, by its header. A larger one gets 422, under /v1/ 400.",
        ge=1,
        le=1 << 27,
    )

    heartbeat_timeout: float = _setting(
        "Workers", 8.0, "Seconds without a step after which a worker counts as hung. It is replaced.", ge=1, le=600
    )
    start_timeout: float = _setting(
        "Workers",
        600.0,
        "Seconds that a worker may take to load the model and warm up. A slower one is replaced.",
        ge=1,
        le=86_400,
    )

    ray: bool = _setting(
        "Workers",
        False,
        "Serve by replicas of Ray Serve, each with a GPU or with so many cores as it has threads. They are started as "
        "requests come, and replaced if they die. RAY_ADDRESS names a cluster; without it Ray runs on this machine.",
    )

    log: Literal["plain", "json"] = _setting("Log", "plain", "Format of the log lines.")
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "Log", "info", "Lowest level of the lines that are logged."
    )

    @field_validator("api_keys_file", "store")
    @classmethod
    def _expand(cls, path: Path | None) -> Path | None:
        return path and find(path.expanduser())

    @field_validator("served_model_name")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not all(re.fullmatch(MODEL, part) for part in name.split("=", 1)):
                raise ValueError(name)
        return value

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
        """Take the variables from `environment`, which leaves out those that are not meant for this server."""
        del settings_cls, dotenv_settings, file_secret_settings
        assert isinstance(env_settings, EnvSettingsSource)
        env_settings.env_vars = {name.lower(): value for name, value in environment().items()}
        return init_settings, env_settings

    @property
    def store_folder(self) -> Path:
        """The folder of the store."""
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        return self.store or state / "dalle-server"

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of `device`, one for each worker process."""
        return tuple(self.device.split(","))

    @property
    def folders(self) -> tuple[tuple[str | None, Path], ...]:
        """The name, if it is given, and the folder of every item of weights. A folder that exists has no name."""
        found = []
        for item in self.weights:
            named = None if find(Path(item).expanduser()).is_dir() else NAMED.fullmatch(item)
            name, folder = named.groups() if named else (None, item)
            found.append((name, find(Path(folder).expanduser())))
        return tuple(found)

    @property
    def aliases(self) -> dict[str, str]:
        """The model of every name of served_model_name; "" is the default model."""
        return {alias: model for alias, _, model in (name.partition("=") for name in self.served_model_name)}

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of cors_origins as browsers write them. "*" and "null" stay as they are."""
        found = [origin.lower().rstrip("/") for origin in _items(self.cors_origins)]
        return tuple(origin.removesuffix(DEFAULT_PORTS.get(origin.partition("://")[0], "")) for origin in found)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of allowed_hosts."""
        return _items(self.allowed_hosts)

    @property
    def proxies(self) -> tuple[str, ...]:
        """The networks of trusted_proxies.

        A network of IPv4 is listed twice: a socket that listens on both kinds of addresses names it ::ffff:NETWORK.
        """
        found = [ipaddress.ip_network(network, strict=False) for network in _items(self.trusted_proxies)]
        both = [f"::ffff:{one.network_address}/{96 + one.prefixlen}" for one in found if one.version == 4]
        return (*map(str, found), *both)


def _items(listed: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, listed.split(","))))


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
