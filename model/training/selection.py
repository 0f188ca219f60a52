"""Which pictures a run learns from, and how often: by concept, not by file, so that no concept drowns the rest."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from model.errors import DataError

if TYPE_CHECKING:
    from model.training.prepare import Prepared


@dataclass(frozen=True)
class Selection:
    """Empty fields choose everything. A picture that names no kind is "single"; one without a concept is its own."""

    concepts: Mapping[str, float] = field(default_factory=dict)  # name -> weight; a trailing "*" is any ending
    sources: frozenset[str] = frozenset()
    mix: Mapping[str, float] = field(default_factory=dict)  # kind -> share of the samples; kinds not named are left out

    def weight(self, concept: str) -> float:
        """How often a concept is drawn, against the others of its kind; 0 for one that is not chosen.

        A pair of things (cat+dog) that is not named itself is drawn as often as the rarer of the two.
        """
        if "+" in concept and concept not in self.concepts:
            return min(self.weight(part) for part in concept.split("+"))
        if not self.concepts or concept in self.concepts:
            return self.concepts.get(concept, 1.0)
        fitting = (n for n in self.concepts if n.endswith("*") and concept.startswith(n[:-1]))
        return max((self.concepts[name] for name in fitting), default=0.0)

    def takes(self, line: Mapping[str, Any]) -> bool:
        """True where a picture's line (as in captions.jsonl) is chosen."""
        concept, kind = str(line.get("concept", "")), str(line.get("kind", "single"))
        return (
            bool(line.get("captions"))
            and self.weight(concept) > 0
            and (not self.sources or line.get("source") in self.sources)
            and (not self.mix or self.mix.get(kind, 0.0) > 0)
        )


def read_concepts(path: Path) -> dict[str, float]:
    """Concepts of a file, one a line: a name (x* for any ending), and a weight where it is not 1. Raises DataError."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    found: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        if words := line.split():
            try:
                name, weight = words[0], float(*words[1:]) if words[1:] else 1.0
            except (TypeError, ValueError):
                weight = 0.0
            if not 0 < weight < math.inf:
                raise DataError(f"{path}: line {number}: {line.strip()!r} is no name with a weight above 0") from None
            found[name] = weight
    return found


def choose(prepared: Prepared, selection: Selection) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Rows of the training split that are chosen, and the share of the samples that each gets; the shares sum to 1.

    A kind's share is split over its concepts by their weights, and a concept's evenly over its pictures. Raises
    DataError when nothing is chosen.
    """
    rows = np.array([row for row in prepared.rows("train") if selection.takes(prepared.lines[row])], dtype=np.int64)
    if not len(rows):
        if not any(line.get("captions") for line in prepared.lines):
            raise DataError(
                f"none of {len(prepared.lines)} pictures has a caption to learn from ({prepared.why_no_captions()}): "
                "each needs a text of its name beside it (a.jpg and a.txt), in English unless --any-language is given"
            )
        raise DataError(f"{prepared.folder}: the selection leaves none of {len(prepared.lines)} pictures")
    keys = []
    for row in rows:
        line = prepared.lines[row]
        keys.append((str(line.get("kind", "single")), str(line.get("concept", f"picture {row}"))))
    pictures, default = Counter(keys), Counter(kind for kind, _ in keys)
    weights: dict[str, float] = defaultdict(float)  # of all concepts of a kind
    for kind, concept in set(keys):
        weights[kind] += selection.weight(concept)
    shares = np.array(
        [
            (selection.mix or default)[kind] * selection.weight(concept) / weights[kind] / pictures[kind, concept]
            for kind, concept in keys
        ]
    )
    return rows, shares / shares.sum()
