"""The results of the parts of an evaluation, and the error of a part that cannot be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from model.errors import DataError
from model.training.estimates import Estimate

REAL, SHUFFLED, REPAINTED = "real drawings", "shuffled prompts", "real drawings through the VAE"  # baselines


class NotMeasured(DataError):
    """A part cannot be run. The message is the reason. The other parts are still run."""


@dataclass(frozen=True)
class Section:
    """Pictures for the sheet of a report, with a line of text each."""

    title: str
    pictures: Sequence[Image.Image]
    captions: Sequence[str]
    columns: int = 10


@dataclass
class Findings:
    """The results of a part. figures: name -> estimate. baselines: the same for each baseline (REAL, SHUFFLED, ...)."""

    figures: dict[str, Estimate] = field(default_factory=dict)
    baselines: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)  # figure -> why it is not known
    trials: dict[str, list[bool]] = field(default_factory=dict)  # pooled over the parts by `report.merge`
    sections: list[Section] = field(default_factory=list)

    def baseline(self, row: str, **estimates: Estimate) -> None:
        self.baselines.setdefault(row, {}).update(estimates)
