"""Reads the model of a training run, if the run is one of the stage that is meant."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from model.config import ClipConfig, ReviserConfig, TransformerConfig, VAEConfig
from model.errors import DataError
from model.limits import build
from model.training.loop import read_average

STAGES: dict[str, type] = {
    "vae": VAEConfig,
    "transformer": TransformerConfig,
    "clip": ClipConfig,
    "reviser": ReviserConfig,
}
C = TypeVar("C")


def read_run(folder: Path, config: type[C]) -> tuple[C, dict[str, Tensor]]:
    """The config and the averaged weights of the run in `folder`. config: the class of its stage's config.

    Raises DataError if the folder holds no run or one of another stage, and CheckpointError for a config with values
    that cannot be.
    """
    values, weights, _ = read_average(folder)
    stage = next(name for name, of in STAGES.items() if of is config)
    found = _stage(values)
    if found not in (stage, None):
        raise DataError(f"{folder} must hold a run of `train {stage}`, got one of `train {found}`")
    return build(config, values, str(folder / "config.json")), weights


def _stage(values: dict[str, Any]) -> str | None:
    """The stage whose config has just these fields."""
    return next(
        (name for name, of in STAGES.items() if {field.name for field in dataclasses.fields(of)} == set(values)), None
    )
