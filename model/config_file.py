"""config.json: the config of a checkpoint, or of an image tokenizer that stands alone, written and read.

`from_dict(to_dict(c)) == c` for every config.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from model.config import FORMAT_VERSION, CheckpointConfig, ImageConfig
from model.errors import CheckpointError
from model.files import parse_json
from model.limits import build, family_of, shown

T = TypeVar("T")
CONFIG = "config.json"
CONFIG_BYTES = 2**20  # of that file


def to_dict(config: Any) -> dict[str, Any]:
    """A JSON-ready dict of any config. A section of another family says so in its key "family"."""
    values = dataclasses.asdict(config)
    for part in dataclasses.fields(config):
        section = getattr(config, part.name)
        if dataclasses.is_dataclass(section) and (family := family_of(type(section))) is not None:
            values[part.name] = {"family": family, **values[part.name]}
    return values


def from_dict(values: Any, where: str = "config.json") -> CheckpointConfig:
    """The config that `to_dict` wrote. where: names the file.

    Raises CheckpointError naming the key that is unknown, missing, of another type or out of its limits.
    """
    if isinstance(values, dict) and "transformer" not in values and _of_family(values.get("vae")):
        told = "an image tokenizer alone, which cannot paint; the key 'transformer' is missing"
        raise CheckpointError(f"{where}: {told}")
    return _read(CheckpointConfig, values, where)


def _read(cls: type[T], values: Any, where: str) -> T:
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} must be an object, got {shown(values)}")
    version = values.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise CheckpointError(f"{where}: format_version is {shown(version)}, and this program reads {FORMAT_VERSION}")
    return build(cls, values, where)


def _of_family(section: Any) -> bool:
    """Whether a section of config.json says that it is of another family."""
    return isinstance(section, dict) and "family" in section


def from_json(data: bytes, where: str = "config.json") -> CheckpointConfig:
    """The config in the bytes of a config.json. Raises CheckpointError as `from_dict` does, and where it is no JSON."""
    return from_dict(parse_json(data, where), where)


def image_from_json(data: bytes, where: str = "config.json") -> CheckpointConfig | ImageConfig:
    """The config of a checkpoint, or of an image tokenizer that stands alone. Raises CheckpointError."""
    values = parse_json(data, where)
    if isinstance(values, dict) and "transformer" not in values:
        return _read(ImageConfig, values, where)
    return from_dict(values, where)


def check(config: CheckpointConfig | ImageConfig, where: str) -> None:
    """Raises CheckpointError for a config that could not be read back."""
    _read(type(config), to_dict(config), where)
