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

from app.schemas import MAX_IMAGES, describe
from model.errors import DalleError

PREFIX = "DALLE_"
# What Kubernetes sets in every container beside a service of the name dalle-something: no settings, nobody's mistake.
SERVICE_LINK = re.compile(r"DALLE_\w+_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP)\w*)?)")


class SettingsError(DalleError):
    """A setting that cannot be used. The message is one line naming the variable, or the flag, and its value."""


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

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        validation_alias=AliasChoices("DALLE_HOST", "HOST"),
        description="address to listen on; 0.0.0.0 lets other machines in",
    )
    port: int = Field(
        default=8000,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("DALLE_PORT", "PORT"),
        description="port to listen on; 0 takes a free one and prints it",
    )
    weights: Path = Field(default=Path("weights/default"), description="folder of the checkpoint to serve")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?(,cuda:\d+)*)$",
        description="auto, cpu, cuda or cuda:0; several, as cuda:0,cuda:1, get a worker process each",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="number format of the model on its device; auto: bfloat16 on CUDA, float32 on the CPU",
    )
    slots: int = Field(
        default=16, ge=2, le=1024, description="rows painted at once by a worker; a guided picture takes two"
    )
    threads: int = Field(
        default=0, ge=0, le=1024, description="threads of a worker's arithmetic; 0: the cores it may use"
    )
    strict: bool = Field(default=True, description="a picture is bit-equal alone and in a crowd")
    truncate: bool = Field(default=False, description="cut a prompt that is too long instead of refusing it")
    queue: int = Field(
        default=128,
        ge=MAX_IMAGES,
        le=100_000,
        description="pictures accepted and not yet painted, at most; beyond it 503",
    )
    client_queue: int = Field(
        default=0, ge=0, le=100_000, description="of these, the share of one client address; beyond it 429; 0: no limit"
    )
    deadline: float = Field(default=600.0, gt=0, le=86_400, description="seconds a request may take, then 504")
    drain: float = Field(default=30.0, ge=0, le=3600, description="seconds that accepted work gets after SIGTERM")
    max_body: int = Field(
        default=1 << 20, ge=1 << 10, le=1 << 28, description="bytes of a request's body; beyond them 413"
    )
    max_upload: int = Field(
        default=8 << 20, ge=1 << 10, le=1 << 28, description="bytes of a form with pictures in it; beyond them 413"
    )
    max_pixels: int = Field(
        default=1 << 24,
        ge=1,
        le=1 << 27,
        description="pixels, by its header, of a picture that is sent; beyond them 400 or 422",
    )
    keep_alive: float = Field(
        default=15.0,
        ge=0.5,
        le=3600,
        description="seconds without news after which a stream sends a comment; proxies cut at 60",
    )
    send_timeout: float = Field(
        default=60.0,
        ge=1,
        le=3600,
        description="seconds that the client of a stream gets to take a picture, then it is cut",
    )
    heartbeat_timeout: float = Field(
        default=8.0,
        ge=1,
        le=600,
        description="seconds without a step after which a worker counts as hung and is replaced",
    )
    start_timeout: float = Field(
        default=600.0, ge=1, le=86_400, description="seconds a worker may take to load and warm up"
    )
    log: Literal["plain", "json"] = Field(default="plain", description="form of the log lines")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level that is logged"
    )

    @field_validator("weights")
    @classmethod
    def _expand(cls, path: Path) -> Path:
        return path.expanduser()

    @property
    def devices(self) -> tuple[str, ...]:
        """One entry a worker process."""
        return tuple(self.device.split(","))


def load_settings(**flags: Any) -> Settings:
    """The settings of this process: defaults, then the environment, then `flags` (None: not given).

    Raises SettingsError.
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
        variables = [name for name in os.environ if name.lower() in (PREFIX.lower() + field, field)]
        name = f"--{field.replace('_', '-')}" if field in given else max(variables, key=len, default=field)
        raise SettingsError(describe(Settings, {**fault, "loc": (field,)}, name)) from None
