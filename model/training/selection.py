"""Which pictures a run learns from, and how often: by concept, not by file, so that no concept drowns the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from model.errors import DataError
from model.training.prepare import Prepared


@dataclass(frozen=True)
class Selection:
    """Empty fields choose everything. A picture that names no kind is "single"; one without a concept is its own."""

    concepts: frozenset[str] = frozenset()  # names; a trailing "*" stands for any ending
    sources: frozenset[str] = frozenset()
    mix: Mapping[str, float] = field(default_factory=dict)  # kind -> share of the samples; kinds not named are left out

    def takes(self, line: Mapping[str, Any]) -> bool:
        """True where a picture's line (as in captions.jsonl) is chosen."""
        concept, kind = str(line.get("concept", "")), str(line.get("kind", "single"))
        named = not self.concepts or any(
            concept.startswith(name[:-1]) if name.endswith("*") else concept == name for name in self.concepts
        )
        return (
            bool(line.get("captions"))
            and named
            and (not self.sources or line.get("source") in self.sources)
            and (not self.mix or self.mix.get(kind, 0.0) > 0)
        )


def choose(prepared: Prepared, selection: Selection) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Rows of the training split that are chosen, and the share of the samples that each gets; the shares sum to 1.

    A kind's share is split evenly over its concepts, and a concept's over its pictures. Raises DataError when nothing
    is chosen.
    """
    rows = np.array([row for row in prepared.rows("train") if selection.takes(prepared.lines[row])], dtype=np.int64)
    if not len(rows):
        raise DataError(f"{prepared.folder}: the selection leaves none of {len(prepared.lines)} pictures")
    keys = []
    for row in rows:
        line = prepared.lines[row]
        keys.append((str(line.get("kind", "single")), str(line.get("concept", f"picture {row}"))))
    pictures, concepts = Counter(keys), Counter(kind for kind, _ in set(keys))
    default = Counter(kind for kind, _ in keys)
    shares = np.array(
        [(selection.mix or default)[kind] / concepts[kind] / pictures[kind, concept] for kind, concept in keys]
    )
    return rows, shares / shares.sum()
