"""Every setting of the server, in one frozen class. `app.load_settings` fills it from flags and variables."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from app.environment import environment
from app.lists import NAME, ORIGIN, Listed, items_of, list_of
from model.errors import DalleError
from model.files import SHIPPED, find

PREFIX = "DALLE_"
MAX_IMAGES = 10  # pictures of one request
MODEL = r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}"  # a model's name in requests
NAMED = re.compile(rf"({MODEL})=(.+)", re.DOTALL)
DEFAULT_PORTS = {"http": ":80", "https": ":443"}  # a browser leaves them out of an origin


class SettingsError(DalleError):
    """A setting that cannot be used. The message is one line naming the variable, or the flag, and its value."""


def _setting(panel: str, default: object, description: str, form: str = "", **limits: Any) -> Any:
    """A field that is a flag, too.

    panel: the heading under which `dalle-server serve --help` shows the flag. form: in words, what a value with a
    pattern must be. limits: as Field takes them.
    """
    extra: dict[str, Any] = {"panel": panel, **({"form": form} if form else {})}
    return Field(default=default, description=description, json_schema_extra=extra, **limits)


def _variable(default: object, description: str, form: str = "", **limits: Any) -> Any:
    """A field that a deployment makes once. It is no flag, so that --help stays short."""
    extra: dict[str, Any] = {"form": form} if form else {}
    return Field(default=default, description=description, json_schema_extra=extra, **limits)


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
    root_path: str = _setting(
        "Where to listen",
        "",
        "Path before all addresses, such as /dalle. It may stay unset if a proxy strips it, and tells it in "
        "X-Forwarded-Prefix.",
        "a path such as /dalle",
        pattern=r"^((/[A-Za-z0-9._~-]+)+/?)?$",
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
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = _setting(
        "Model",
        "auto",
        "Number format of the model. auto is bfloat16 on CUDA. On the CPU it is float32, with products in bfloat16 "
        "where the processor has them and no weight is rounded. int8 rounds the weights of a step on the CPU.",
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
    keep_alive: float = _variable(
        15.0,
        "Seconds without an event after which a stream sends a comment. Many proxies cut a connection that is silent "
        "for 60 seconds.",
        ge=0.5,
        le=3600,
    )
    send_timeout: float = _variable(
        60.0,
        "Seconds that a client has to read each MiB of its answer. A slower client is disconnected.",
        ge=1,
        le=3600,
    )
    answer_bytes: int = _variable(
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

    api_keys: str = _variable(
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
        pattern=list_of(ORIGIN),
    )
    allowed_hosts: str = _setting(
        "Who may ask",
        "",
        "Names that the header Host may hold, such as dalle.example.org,*.example.org. localhost and IP addresses are "
        "always allowed. * stands for every name. Without any, every name is allowed, except on a loopback address.",
        "names without scheme and port, separated by commas, such as dalle.example.org,*.example.org, or *",
        pattern=list_of(NAME),
    )
    trusted_proxies: str = _setting(
        "Who may ask",
        "",
        "Addresses or networks of proxies, such as 127.0.0.1,172.16.0.0/12. The server believes their headers "
        "X-Forwarded-For, -Proto, -Host and -Prefix.",
        "addresses or networks separated by commas, such as 127.0.0.1,172.16.0.0/12",
        pattern=r"^[0-9a-fA-F:./, ]*$",
    )

    lenient: bool = _setting(
        "What is read",
        False,
        "Where a client of the OpenAI API asks for what cannot be painted, paint what is nearest instead of refusing: "
        "for an oblong size the largest square in it, and for an edit without a mask the lower half anew. Answers for "
        "dall-e-2 and dall-e-3 also have addresses.",
    )
    max_body: int = _variable(
        1 << 20,
        "Bytes that a request's body may have. A larger one gets 413.",
        ge=1 << 10,
        le=1 << 28,
    )
    max_upload: int = _variable(
        8 << 20,
        "Bytes that a form with files may have. A larger one gets 413.",
        ge=1 << 10,
        le=1 << 28,
    )
    max_pixels: int = _variable(
        1 << 24,
        "Pixels that a picture in a request may have, by its header. A larger one gets 422, under /v1/ 400.",
        ge=1,
        le=1 << 27,
    )

    store: Path | None = _variable(
        None,
        "Folder of the jobs and of the pictures that have an address. Without it they are in the user's state folder.",
    )
    store_database: str = _variable(
        "",
        "Database of the jobs, as SQLAlchemy writes its address, such as postgresql+psycopg://user@host/dalle. Several "
        "servers may share one. Without it a SQLite file in the store's folder serves this machine.",
        repr=False,
    )
    store_pictures: str = _variable(
        "",
        "Place of the pictures, as fsspec writes its address: a shared folder, or s3://bucket/pictures. Without it "
        "they are in the store's folder.",
    )
    keep_days: float = _variable(
        7.0,
        "Days that an ended job and its pictures are kept. A picture that nobody has fetched is kept twice as long.",
        gt=0,
        le=3650,
    )
    keep_pictures: int = _variable(
        100_000,
        "Pictures of ended jobs that are kept at most. Beyond them those go that were fetched, the oldest first, and "
        "then the others.",
        ge=0,
        le=10**9,
    )
    keep_bytes: int = _variable(
        20 << 30,
        "Bytes of pictures of ended jobs that are kept at most.",
        ge=0,
        le=1 << 50,
    )
    private_webhooks: bool = _variable(
        False,
        "Let webhooks lead to this machine and to private networks, and by http.",
    )

    heartbeat_timeout: float = _setting(
        "Workers", 8.0, "Seconds without a step after which a worker counts as hung. It is replaced.", ge=1, le=600
    )
    start_timeout: float = _variable(
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
        for network in items_of(value):
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
        found = [origin.lower().rstrip("/") for origin in items_of(self.cors_origins)]
        return tuple(origin.removesuffix(DEFAULT_PORTS.get(origin.partition("://")[0], "")) for origin in found)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of allowed_hosts."""
        return items_of(self.allowed_hosts)

    @property
    def proxies(self) -> tuple[str, ...]:
        """The networks of trusted_proxies.

        A network of IPv4 is listed twice: a socket that listens on both kinds of addresses names it ::ffff:NETWORK.
        """
        found = [ipaddress.ip_network(network, strict=False) for network in items_of(self.trusted_proxies)]
        both = [f"::ffff:{one.network_address}/{96 + one.prefixlen}" for one in found if one.version == 4]
        return (*map(str, found), *both)
