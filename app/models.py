"""The models that this server serves, by the names that requests call them. Nothing of a request ever names a path.

Settings name folders. One folder is served under the name in its config.json. A folder without a config.json that holds
folders with one stands for these, each under its folder's name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.checkpoint import ServedCheckpoint
from app.settings import Settings, SettingsError
from app.wording import shorten
from model.config_file import CONFIG
from model.errors import CheckpointError, InvalidRequest, ModelFailed

log = logging.getLogger("dalle.models")


class NoSuchModel(InvalidRequest):
    """A request for a model that this server does not serve."""


@dataclass(frozen=True)
class Models:
    """What is served.

    served: the checkpoint of every model by its name, the default one first. aliases: more names, each with the name of
    its model. unreadable: models whose folder cannot be read, by name. Their requests fail.
    """

    served: Mapping[str, ServedCheckpoint]
    aliases: Mapping[str, str] = field(default_factory=dict)
    unreadable: frozenset[str] = frozenset()

    @classmethod
    def read(cls, settings: Settings) -> Models:
        """Read the configurations and tokenizers of all models.

        Raises CheckpointError if the default model's cannot be read, and SettingsError if two models have one name, or
        an alias names no model.
        """
        served: dict[str, ServedCheckpoint] = {}
        unreadable: set[str] = set()
        for given, folder in _listed(settings):
            try:
                checkpoint = ServedCheckpoint.read(folder)
            except CheckpointError as error:
                if not served:
                    raise
                unreadable.add(given or folder.name)
                log.error("%s cannot be served: %s", given or folder.name, error)
                continue
            name = given or checkpoint.config.name
            if name in served:
                raise SettingsError(
                    f"weights must name every model differently, got two of the name {shorten(name)}; "
                    "NAME=FOLDER gives another name"
                )
            served[name] = checkpoint
        default = next(iter(served))
        aliases = {alias: model or default for alias, model in settings.aliases.items()}
        for alias, model in aliases.items():
            if alias in served:
                raise SettingsError(f"served_model_name must hold new names, got that of the model {shorten(alias)}")
            if model not in served:
                known = ", ".join(served)
                raise SettingsError(f"served_model_name must name models, got {shorten(model)}; there is {known}")
        return cls(served, aliases, frozenset(unreadable - set(served)))

    @property
    def default(self) -> str:
        """The name of the model that paints what names none."""
        return next(iter(self.served))

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return len(self.served) + len(self.unreadable) > 1

    def named(self, asked: str | None) -> str:
        """The name of the model that a request asks for. None is the default model.

        Raises NoSuchModel, which lists what there is, and ModelFailed for a model that cannot be read.
        """
        name = self.default if asked is None else self.aliases.get(asked, asked)
        if name in self.unreadable:
            raise ModelFailed(name)
        if name not in self.served:
            known = [*self.served, *self.aliases]
            there = " or ".join(filter(None, (", ".join(known[:-1]), known[-1])))
            raise NoSuchModel("model", f"model must be {there}, got {shorten(asked)}")
        return name


def _listed(settings: Settings) -> list[tuple[str | None, Path]]:
    """The name, if it is known, and the folder of every model."""
    found: list[tuple[str | None, Path]] = []
    for name, folder in settings.folders:
        inside = [] if (folder / CONFIG).exists() else sorted(_folders(folder))
        if inside and name is not None:
            raise SettingsError(f"weights must name a checkpoint after {name}=, got {folder}, which holds several")
        found += [(one.name, one) for one in inside] or [(name, folder)]
    return found


def _folders(folder: Path) -> list[Path]:
    """The folders in `folder` that hold a checkpoint."""
    return [path for path in folder.iterdir() if (path / CONFIG).is_file()] if folder.is_dir() else []
