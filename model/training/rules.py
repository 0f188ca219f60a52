"""Which pictures and captions are fit to train on. The module imports no torch, so that --help is fast."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.training.knobs import knob


@dataclass(frozen=True)
class Rules:
    """Which pictures and captions are fit to train on."""

    english: bool = field(
        default=True,
        metadata=knob(
            "Leave out captions that are not English.",
            off=("any-language", "Also take captions that are not English."),
        ),
    )
    letters: int = field(default=3, metadata=knob("Fewest letters of a caption. A shorter one is left out.", ge=0))
    characters: int = field(
        default=2000,
        metadata=knob(
            "Most characters of a caption. A longer one is left out. The model reads 256 tokens, some 1000 characters.",
            ge=1,
        ),
    )
    least_side: int = field(
        default=64, metadata=knob("Fewest pixels of a picture's shorter side. A smaller picture is left out.", ge=1)
    )
    most_aspect: float = field(
        default=2.0,
        metadata=knob(
            "Largest ratio of a picture's longer side to its shorter side. Longer pictures are left out.",
            ge=1,
        ),
    )
    near: bool = field(
        default=True,
        metadata=knob("Leave out pictures that look like an earlier one. Equal pictures are left out in any case."),
    )

    def size(self, width: int, height: int) -> str:
        """Why a picture of `width` x `height` pixels is left out, or ""."""
        shorter, longer = sorted((width, height))
        if shorter < self.least_side:
            return f"smaller than {self.least_side} pixels"
        return f"aspect ratio outside 1:{self.most_aspect:g}" if longer > self.most_aspect * shorter else ""


RULES = Rules()
