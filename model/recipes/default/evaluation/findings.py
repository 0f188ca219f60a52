"""What the parts of an evaluation find, and that a part cannot be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from model.errors import DataError
from model.training.estimates import Estimate

REAL, SHUFFLED, REPAINTED = "real drawings", "shuffled prompts", "real drawings through the VAE"  # baselines


class NotMeasured(DataError):
    """A part cannot be run here, with the reason. The others can."""


@dataclass(frozen=True)
class Section:
    """Pictures to look at, with a line of text each."""

    title: str
    pictures: Sequence[Image.Image]
    captions: Sequence[str]
    columns: int = 10


@dataclass
class Findings:
    """What a part found. figures, and the same by baseline ("real drawings", "shuffled prompts"): name -> estimate."""

    figures: dict[str, Estimate] = field(default_factory=dict)
    baselines: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)  # figure -> why it is not known
    trials: dict[str, list[bool]] = field(default_factory=dict)  # to be pooled with other parts'
    sections: list[Section] = field(default_factory=list)

    def baseline(self, row: str, **estimates: Estimate) -> None:
        self.baselines.setdefault(row, {}).update(estimates)
